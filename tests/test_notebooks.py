"""The notebooks: they run from top to bottom, in small, and as they are kept they were run that way, in full, by

    uv run --extra notebooks jupyter nbconvert --to notebook --execute --inplace experiments/notebooks/*.ipynb

Numbers 3 and 4 compile the whole rollout step and a training iteration: minutes on a small machine, for parts that
other tests cover. They are run on request: `NOTEBOOKS=all uv run --extra notebooks pytest tests/test_notebooks.py`.
"""

import gc
import json
import os
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

import pimpc
from pimpc import Status
from pimpc.problem import given_fields

FOLDER = Path(__file__).parents[1] / "experiments" / "notebooks"
QUICK = ("1_solver", "2_plan", "5_horizons")
SLOW = ("3_rollout_step", "4_training")


def code_cells(name):
    cells = json.loads((FOLDER / f"{name}.ipynb").read_text())["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in cells if cell["cell_type"] == "code"]


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Runs the first cells of a notebook, by default all, and returns what they define."""
    monkeypatch.setenv("NOTEBOOK_SMALL", "1")
    monkeypatch.setenv("MUJOCO_GL", os.environ.get("MUJOCO_GL", "disable"))  # else they set it, for all tests to come
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))

    def run(name, count=None):
        scope = {"__name__": name}
        for cell in code_cells(name)[:count]:
            exec(compile(cell["source"], f"{name}.ipynb", "exec"), scope)
        return scope

    with matplotlib.rc_context():  # which notebooks set for all that is drawn after
        yield run


def test_all_notebooks_are_known():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(QUICK + SLOW)


@pytest.mark.parametrize("name", QUICK + SLOW)
def test_a_notebook_is_kept_as_it_ran_from_top_to_bottom(name):
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 400_000
    cells = code_cells(name)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert sum(key.startswith("image/") for output in outputs for key in output.get("data", {})) >= 2
    assert "jax" in json.dumps(cells[0]["outputs"])


def test_the_solver_alone(execute, capsys):
    seen = execute("1_solver")
    said = [Status(int(code)).name for code in seen["answers"].status[:5]]
    assert said == ["SOLVED", "INFEASIBLE", "SOLVED", "SOLVED", "NONFINITE_INPUT"]
    assert seen["same"]
    assert np.mean(seen["warm"]) < np.mean(seen["cold"])
    assert float(seen["slope"]) == pytest.approx(float(seen["difference"]), rel=0.05)
    assert "x0" in capsys.readouterr().out


# Without OpenGL the notebook draws lines, and the renderer that could not be made complains when it is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_one_robot_and_its_plan(execute):
    seen = execute("2_plan")
    gc.collect()
    assert np.all(seen["solutions"].status <= Status.SOLVED_INACCURATE)
    standing, stepping = (seen["case"](seen["plans"], i) for i in (0, 1))
    assert standing.stance.all() and not stepping.stance.all()
    assert stepping.p_world_com[-1, 0] > standing.p_world_com[-1, 0] + 0.05
    assert seen["picture"].shape == (360, 480, 3) and seen["picture"].std() > 10


def test_what_a_longer_horizon_buys(execute):
    seen = execute("5_horizons")
    found, calm = seen["found"], seen["calm"]
    assert 0 < calm.sum() < len(calm)
    assert np.all(found.status <= Status.SOLVED_INACCURATE)
    # The longest plan is the best one: no other beginning is cheaper, and its own costs nothing.
    assert np.all(found.short_sight > -1e-5) and np.any(found.short_sight[:, 0] > 1e-5)
    np.testing.assert_allclose(found.short_sight[:, -1], 0.0, atol=1e-5)
    np.testing.assert_array_equal(found.first_force_change[:, -1], 0.0)
    assert np.all(found.height_error < 0.1) and np.all(found.velocity_error < 1.0)
    # A masked horizon is the shorter problem.
    problems, config = seen["longest"], seen["config"]
    short = seen["ablation"].cut(problems, 2, config.terminal)
    built = seen["ablation"].build(seen["states"], pimpc.CentroidalConfig(horizon=2), pimpc.GaitConfig())
    moving = np.asarray(seen["states"].inputs.moving)
    for key, value in given_fields(built).items():
        np.testing.assert_allclose(getattr(short, key)[moving], value[moving], rtol=1e-6, atol=1e-6, err_msg=key)
    assert seen["walks"].solved[1:].all()


@pytest.mark.parametrize("name", SLOW)
def test_what_a_slow_notebook_imports_is_there(execute, name):
    execute(name, 1)


@pytest.mark.timeout(1800)
@pytest.mark.skipif(os.environ.get("NOTEBOOKS") != "all", reason="minutes of compilation: see the module's docstring")
@pytest.mark.parametrize("name", SLOW)
def test_a_slow_notebook_runs(execute, name):
    execute(name)
