import json

import numpy as np
import pytest
import scipy.special
from transformers import AutoConfig, PreTrainedConfig

from hf_utils.errors import UserError
from hf_utils.models.families import probabilities_of
from hf_utils.models.spectrogram_cnn import SpectrogramCNNConfig
from hf_utils.models.temperature import forget_temperature, read_temperature, write_temperature

LOGITS = np.array([[3.0, 0.0, -1.0], [0.5, 1.0, 0.0]])


def config_with(**fields):
    return PreTrainedConfig(num_labels=3, **fields)


def test_probabilities_are_of_logits_by_the_temperature():
    halved = probabilities_of(config_with(calibration_temperature=2), LOGITS)
    np.testing.assert_allclose(halved, scipy.special.softmax(LOGITS / 2, axis=1))
    np.testing.assert_allclose(probabilities_of(config_with(), LOGITS), scipy.special.softmax(LOGITS, axis=1))
    tagger = config_with(calibration_temperature=2, problem_type="multi_label_classification")
    np.testing.assert_allclose(probabilities_of(tagger, LOGITS), scipy.special.expit(LOGITS))


@pytest.mark.parametrize("value", [0, -1.5, "hot", True, float("nan"), float("inf"), [1.0]])
def test_what_is_no_temperature_is_refused(value):
    with pytest.raises(UserError, match="calibration_temperature in the config.json .*expected a number above 0"):
        read_temperature(config_with(calibration_temperature=value))


@pytest.mark.parametrize("saved", ["ast", "cnn"])
def test_a_checkpoint_keeps_its_temperature_however_often_it_is_saved(saved, tmp_path):
    config = AutoConfig.for_model("audio-spectrogram-transformer") if saved == "ast" else SpectrogramCNNConfig()
    config.save_pretrained(tmp_path)
    before = json.loads((tmp_path / "config.json").read_text())
    write_temperature(tmp_path, 1.25)
    assert json.loads((tmp_path / "config.json").read_text()) == before | {"calibration_temperature": 1.25}
    read = AutoConfig.from_pretrained(tmp_path)
    read.save_pretrained(tmp_path / "again")
    again = AutoConfig.from_pretrained(tmp_path / "again")
    assert read_temperature(read) == read_temperature(again) == 1.25
    forget_temperature(again)
    forget_temperature(again)
    assert read_temperature(again) is None and "calibration_temperature" not in again.to_dict()
