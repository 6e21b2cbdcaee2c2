import pytest
import torch

from wanact.models import attention
from wanact.models.attention import choose_attention

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


class Transformer:
    """Takes the kernels that are installed, as diffusers' transformers do."""

    dtype = torch.float32

    def __init__(self, *installed):
        self.installed, self.taken = ("native", *installed), None

    def set_attention_backend(self, name):
        if name not in self.installed:
            raise RuntimeError(f"{name} is not installed")
        self.taken = name


@pytest.fixture(autouse=True)
def hopper(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: attention.FLASH3_CAPABILITY)


@pytest.mark.parametrize(
    ("installed", "taken", "settings"),
    [
        (("flash", "_flash_3"), "_flash_3", {}),
        (("flash",), "flash", {}),
        ((), None, {}),
        (("flash", "_flash_3"), "flash", {"for_training": True}),
        (("flash", "_flash_3"), None, {"is_masked": True}),
    ],
)
def test_auto_takes_the_fastest_that_can_do_it(installed, taken, settings):
    transformer = Transformer(*installed)
    assert choose_attention(transformer, "auto", CUDA, torch.bfloat16, **settings) is None
    assert transformer.taken == taken


@pytest.mark.parametrize(
    ("wanted", "device", "dtype", "settings", "says"),
    [
        ("sage", CUDA, torch.bfloat16, {"for_training": True}, "it has no gradients"),
        ("flash", CUDA, torch.bfloat16, {"is_masked": True}, "it takes no mask"),
        ("flash", CPU, torch.bfloat16, {}, "needs a CUDA device"),
        ("flash", CUDA, torch.float32, {}, "needs a CUDA device and a 16-bit type"),
        ("flash", CUDA, None, {}, "16-bit type"),
        ("flash_hub", CUDA, torch.bfloat16, {}, "flash_hub is not installed"),
    ],
)
def test_a_kernel_that_cannot_be_had_is_replaced_and_said(wanted, device, dtype, settings, says):
    note = choose_attention(Transformer("flash", "sage"), wanted, device, dtype, **settings)
    assert note is not None and note.startswith(f"attention '{wanted}' cannot be used, so native is") and says in note


def test_a_prebuilt_kernel_of_the_hub_trains():
    transformer = Transformer("flash_hub")
    assert choose_attention(transformer, "flash_hub", CUDA, torch.bfloat16, for_training=True) is None
    assert transformer.taken == "flash_hub"


def test_diffusers_knows_every_name():
    from diffusers.models.attention_dispatch import AttentionBackendName

    assert set(attention.BACKENDS.values()) <= {backend.value for backend in AttentionBackendName}
