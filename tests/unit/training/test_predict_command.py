"""``predict`` from the command line, with a policy directory and no callback named by the user."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from retro_lightning.cli.main import main
from retro_lightning.policy.policy import Policy
from tests.fits import Fit

_CORRIDOR = str(Path(__file__).resolve().parents[2] / "corridor.yaml")


def test_predict_writes_every_stored_action(workplace, make_fit, capsys):
    fit: Fit = make_fit("fit", trainer_options={"max_epochs": 1}).run()
    directory = fit.last.with_name("last-policy")
    code = main(["predict", "--config", _CORRIDOR, "--policy", str(directory)])
    assert code == 0
    (path,) = workplace.rglob("predictions.parquet")
    rows = pq.read_table(path).to_pylist()
    # 2 families of 5 tasks; expert and noisy expert once, random walker twice on each.
    assert len(rows) == 2 * 5 * (1 + 1 + 2)
    values = np.concatenate([row["log_probs"] for row in rows])
    assert np.isfinite(values).all()
    assert (values <= 0).all()
    assert {row["family"] for row in rows} == {"corridor/short", "corridor/long"}

    policy = Policy.load(directory)
    ids = policy.tokenizer.encode("\nAction:")
    with torch.no_grad():
        policy.lm.get_input_embeddings().weight[ids[-1]] = torch.nan
    policy.save("damaged")
    assert main(["predict", "--config", _CORRIDOR, "--policy", "damaged"]) != 0
    told = capsys.readouterr().err
    assert re.search(r"task corridor/\S+, step 0: the language model's logits are not finite", told)
