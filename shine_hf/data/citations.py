"""BibTeX entries of the datasets."""

COMPOSITIONAL = """@inproceedings{li2022compositional,
  title = {Compositional Temporal Grounding with Structured Variational Cross-Graph Correspondence Learning},
  author = {Li, Juncheng and Xie, Junlin and Qian, Long and Zhu, Linchao and Tang, Siliang and Wu, Fei and Yang, Yi and Zhuang, Yueting and Wang, Xin Eric},
  booktitle = {CVPR},
  year = {2022}
}"""
CHARADES_STA = """@inproceedings{gao2017tall,
  title = {{TALL}: Temporal Activity Localization via Language Query},
  author = {Gao, Jiyang and Sun, Chen and Yang, Zhenheng and Nevatia, Ram},
  booktitle = {ICCV},
  year = {2017}
}"""
CHARADES = """@inproceedings{sigurdsson2016hollywood,
  title = {Hollywood in Homes: Crowdsourcing Data Collection for Activity Understanding},
  author = {Sigurdsson, Gunnar A. and Varol, G{\\"u}l and Wang, Xiaolong and Farhadi, Ali and Laptev, Ivan and Gupta, Abhinav},
  booktitle = {ECCV},
  year = {2016}
}"""
ACTIVITYNET_CAPTIONS = """@inproceedings{krishna2017dense,
  title = {Dense-Captioning Events in Videos},
  author = {Krishna, Ranjay and Hata, Kenji and Ren, Frederic and Fei-Fei, Li and Niebles, Juan Carlos},
  booktitle = {ICCV},
  year = {2017}
}"""
TACOS = """@article{regneri2013grounding,
  title = {Grounding Action Descriptions in Videos},
  author = {Regneri, Michaela and Rohrbach, Marcus and Wetzel, Dominikus and Thater, Stefan and Schiele, Bernt and Pinkal, Manfred},
  journal = {TACL},
  year = {2013}
}"""
QVHIGHLIGHTS = """@inproceedings{lei2021qvhighlights,
  title = {{QVHighlights}: Detecting Moments and Highlights in Videos via Natural Language Queries},
  author = {Lei, Jie and Berg, Tamara L. and Bansal, Mohit},
  booktitle = {NeurIPS},
  year = {2021}
}"""
DIDEMO = """@inproceedings{hendricks2017localizing,
  title = {Localizing Moments in Video with Natural Language},
  author = {Hendricks, Lisa Anne and Wang, Oliver and Shechtman, Eli and Sivic, Josef and Darrell, Trevor and Russell, Bryan},
  booktitle = {ICCV},
  year = {2017}
}"""
