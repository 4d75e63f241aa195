"""The main job, shown: `make demo`, and the wheel check that `.ci/run` does."""
