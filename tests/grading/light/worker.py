"""In place of the grader's worker.py: all but torch, which takes seconds to load and which walls and pipes know nothing of.

Numbers come as a list and go as one. inside.py, which runs the cells, and the walls around it are the real ones.
"""

import sys
import types

torch = sys.modules["torch"] = types.ModuleType("torch")
torch.set_num_threads = lambda number: None


def answer(function, request: dict) -> dict:
    if not callable(function):
        return {"missing": True}
    try:
        data = function(*request["args"].values())
        values, error = [{"dtype": "float64", "shape": [len(data)], "data": data}], None
    except BaseException as raised:
        values, error = None, f"{type(raised).__name__}: {raised}"[:300]
    return {"values": values, "gradients": None, "error": error, "changed": None}
