"""Several real processes of one run, without ``torchrun``: the test itself holds the store that they meet at."""

import multiprocessing
import os

import torch
import torch.distributed as dist


def _run(function, rank, size, port, arguments, answers):
    os.environ |= {"WORLD_SIZE": str(size), "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    torch.set_num_threads(1)
    try:
        answers.send(("returned", function(rank, *arguments)))
    except BaseException as error:
        answers.send((type(error).__name__, str(error)))


class Processes:
    """``function(rank, *arguments)`` in processes of its own; a port is chosen by the system."""

    def __init__(self, function, *arguments, size=2):
        self.store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        context = multiprocessing.get_context("spawn")
        self.answers, self.processes = [], []
        for rank in range(size):
            answers, end = context.Pipe(duplex=False)
            process = context.Process(target=_run, args=(function, rank, size, self.store.port, arguments, end))
            process.start()
            end.close()
            self.answers.append(answers)
            self.processes.append(process)

    def pid(self, rank):
        return self.processes[rank].pid

    def answer(self, rank, seconds=240):
        """Return ("returned", value) or (name of the exception, its text); what kind of end it was if none came."""
        assert self.answers[rank].poll(seconds), f"process {rank} gave no answer in {seconds} s"
        try:
            return self.answers[rank].recv()
        except EOFError:
            return "ended", ""

    def close(self):
        for process in self.processes:
            if process.is_alive():
                process.kill()
            process.join()
