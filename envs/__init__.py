"""Humanoids in MuJoCo MJX: robots as data, the physics step, and the tasks with an MPC inside."""
