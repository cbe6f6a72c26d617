"""Run a bundle and die by SIGKILL at a chosen moment: python kill_driver.py MOMENT CONFIG_FILE OVERRIDES_JSON."""

import json
import os
import signal
import sys

import torch

from medssl_monai import bundle, files
from medssl_monai.engines import SSLTrainer
from medssl_monai.handlers import QueryHandler
from medssl_monai.handlers import query as query_module


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def arm(moment):
    calls = []
    if moment == "step":
        iteration = SSLTrainer._iteration
        SSLTrainer._iteration = lambda *a: die() if calls.append(1) or len(calls) == 5 else iteration(*a)
    elif moment == "checkpoint":  # the new state is half written
        save = torch.save

        def half(content, file):
            save(content, file)
            if "trainer" in content:
                file.truncate(file.tell() // 2)
                die()

        files.torch.save = half
    elif moment == "query":  # the table is there, the record is not
        write = query_module.write_query
        query_module.write_query = lambda path, *a: (write(path, *a), os.unlink(path), die())
    elif moment == "annotation":
        annotate = QueryHandler.annotate
        QueryHandler.annotate = lambda self, engine: (annotate(self, engine), engine.state.epoch == 3 and die())


if __name__ == "__main__":
    torch.set_num_threads(1)
    arm(sys.argv[1])
    run = bundle.workflow([sys.argv[2]], logging_file=False, **json.loads(sys.argv[3]))
    run.initialize()
    run.run()
