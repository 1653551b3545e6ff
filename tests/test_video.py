"""The film at the end of a run: it must come out whatever the machine can render."""

import av
import numpy as np
import pytest

from envs.robots import compile_robot, get_robot
from learning import video


@pytest.fixture(scope="module")
def robot():
    return compile_robot(get_robot("g1"))


@pytest.fixture
def snapshots(robot):
    """A robot that slides forward, with a plan ahead of it."""
    path = np.linspace([0.0, 0.0, 0.67], [0.35, 0.0, 0.67], 11)
    foot = np.array([[0.0, 0.12, 0.0], [0.0, -0.12, 0.0]])
    return [
        {
            "qpos": robot.default_qpos + np.eye(robot.default_qpos.size)[0] * 0.02 * i,
            "com_path": path + np.array([0.02 * i, 0, 0]),
            "landing": foot + np.array([0.3, 0, 0]),
            "landing_valid": np.array([True, False]),
            "foot": foot,
            "force": np.array([[0.0, 0.0, 327.0], [0.0, 0.0, 0.0]]),
        }
        for i in range(5)
    ]


def test_a_film_is_made_without_opengl(robot, snapshots, tmp_path, monkeypatch):
    def no_opengl(*_):
        raise ImportError("no libEGL")

    monkeypatch.setattr(video, "_open_renderer", no_opengl)
    with pytest.warns(UserWarning, match="drawing a side view"):
        how = video.film(robot.mj_model, snapshots, tmp_path / "new" / "walk.mp4", 50, (320, 240))
    assert how == "lines"
    with av.open(str(tmp_path / "new" / "walk.mp4")) as container:
        assert float(container.streams.video[0].average_rate) == 50
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == len(snapshots)
    assert frames[0].shape == (240, 320, 3)
    assert frames[0].std() > 10  # something is drawn


def test_the_side_view_follows_the_robot(robot, snapshots):
    """Seen along its heading from where it is, a robot that slides without moving its joints looks the same."""
    first, *_, last = video.draw_lines(robot.mj_model, snapshots[:2], (320, 240))
    assert np.mean(first != last) < 0.05
    assert np.mean(first < 128) > 0.005
