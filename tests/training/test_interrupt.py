import signal
import threading

import pytest

from softprompt_jax.training.interrupt import Interrupt


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_noted_and_the_second_acts(number):
    def caught(*_):
        raise TimeoutError

    before = signal.signal(number, caught)
    try:
        with Interrupt() as interrupt:
            assert interrupt.signal is None
            signal.raise_signal(number)
            assert interrupt.signal == number
            with pytest.raises(TimeoutError):
                signal.raise_signal(number)
        assert signal.getsignal(number) is caught
    finally:
        signal.signal(number, before)


def test_handlers_come_back_after_a_failure():
    before = [signal.getsignal(number) for number in Interrupt.CAUGHT]
    with pytest.raises(ValueError, match="within"), Interrupt():
        raise ValueError("within")
    assert [signal.getsignal(number) for number in Interrupt.CAUGHT] == before


def test_outside_the_main_thread_nothing_changes():
    before = [signal.getsignal(number) for number in Interrupt.CAUGHT]
    seen = []

    def work():
        with Interrupt() as interrupt:
            seen.append([signal.getsignal(number) for number in Interrupt.CAUGHT])
            seen.append(interrupt.signal)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before, None]
