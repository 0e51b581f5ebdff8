import subprocess
import sys
from pathlib import Path

import pytest

from shine_hf.negatives.language.tagging import PACKAGED_TAGGER, TaggedQuery, Tagger

TRAINING_SCRIPT = Path(__file__).parents[3] / "scripts" / "train_tagger.py"
TREEBANK = """\
# text = He opens the door.
1\tHe\the\tPRON\t_\t_\t2\tnsubj\t_\t_
2\topens\topen\tVERB\t_\t_\t0\troot\t_\t_
3\tthe\tthe\tDET\t_\t_\t4\tdet\t_\t_
4\tdoor\tdoor\tNOUN\t_\t_\t2\tobj\t_\tSpaceAfter=No
5\t.\t.\tPUNCT\t_\t_\t2\tpunct\t_\t_

1-2\tThey're\t_\t_\t_\t_\t_\t_\t_\t_
1\tThey\tthey\tPRON\t_\t_\t3\tnsubj\t_\t_
2\t're\tbe\tAUX\t_\t_\t3\taux\t_\t_
3\teating\teat\tVERB\t_\t_\t0\troot\t_\t_
4\tred\tred\tADJ\t_\t_\t5\tamod\t_\t_
5\tapples\tapple\tNOUN\t_\t_\t3\tobj\t_\tSpaceAfter=No
6\t.\t.\tPUNCT\t_\t_\t3\tpunct\t_\t_
"""


@pytest.fixture(scope="module")
def tagger():
    return Tagger()


def test_captions_are_tagged_correctly(tagger):
    [query] = tagger.tag(["person opens the old refrigerator."])
    assert str(query) == "person/NOUN opens/VERB the/DET old/ADJ refrigerator/NOUN ./PUNCT"


def test_tags_keep_order_and_duplicates_and_ignore_surrounding_spaces(tagger):
    queries = [" a person sits down.", "person runs.", "a person sits down."]
    tagged = tagger.tag(queries)
    assert [query.tokens[-2] for query in tagged] == ["down", "runs", "down"]
    assert tagged[0] == tagged[2]
    assert tagger.tag([]) == []


def test_number_of_processes_does_not_change_the_tags(tagger):
    queries = ["a person opens a door.", "person laughing on the sofa.", "they sit."]
    assert tagger.tag(queries, processes=2) == tagger.tag(queries)


def test_provenance_distinguishes_two_trainings(tagger):
    assert tagger.provenance.startswith("en_ud_ewt_pos_small 1.0.0 sha256:")
    assert Tagger(PACKAGED_TAGGER).provenance == tagger.provenance
    other = Tagger()
    model = other.nlp.get_pipe("morphologizer").model
    node = next(node for node in model.walk() if "b" in node.param_names)
    node.set_param("b", node.get_param("b") + 1)
    assert other.provenance != tagger.provenance


def test_missing_and_unsuitable_pipelines_are_rejected(tmp_path):
    import spacy

    with pytest.raises(OSError, match="no_such_model"):
        Tagger("no_such_model")
    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(ValueError, match="sets no universal parts of speech"):
        Tagger(tmp_path / "blank")


def test_parallel_tags_are_required():
    with pytest.raises(ValueError, match="2 tokens but 1 parts of speech"):
        TaggedQuery(("a", "b"), ("DET",))


def test_training_script_learns_a_treebank_and_derived_captions(tmp_path):
    from shine_hf.negatives.language.masking import mask_query

    treebank = tmp_path / "tiny.conllu"
    treebank.write_text(TREEBANK * 20, encoding="utf-8")
    command = [sys.executable, TRAINING_SCRIPT, "--train", treebank, "--dev", treebank, "--steps", "100"]
    command += ["--width", "16", "--embed-size", "200", "--output", tmp_path / "tagger"]
    subprocess.run(command, check=True, capture_output=True)
    tagger = Tagger(tmp_path / "tagger")
    assert tagger.provenance.startswith("en_caption_pos")
    # "a person opens" is in no sentence of the treebank: it comes from the captions made of it.
    [query] = tagger.tag(["a person opens the door."])
    assert query.parts_of_speech == ("DET", "NOUN", "VERB", "DET", "NOUN", "PUNCT")
    assert mask_query(query).masked_queries()[0] == "a person <mask> the door."


def test_training_script_reports_a_broken_line(tmp_path):
    broken = tmp_path / "broken.conllu"
    broken.write_text("1\tHe\tPRON\n", encoding="utf-8")
    command = [sys.executable, TRAINING_SCRIPT, "--train", broken, "--dev", broken, "--output", tmp_path / "t"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode != 0
    assert "broken.conllu, line 1: 3 columns" in result.stderr
