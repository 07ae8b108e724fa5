"""Networks that the user wrote: files below the current folder are called, nothing else ever is."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from webdistill.core.errors import UserError
from webdistill.models.checkpoint import load_network, load_weights, save_network
from webdistill.models.classifier import Classifier
from webdistill.models.cost import parameters
from webdistill.models.names import own_code, parse
from webdistill.models.zoo import build

NET = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        self.head = nn.Linear(5, num_classes)

    def forward(self, x):
        return self.head(self.conv(x).relu().mean(dim=(2, 3)))

def small(num_classes):
    return Small(num_classes)
"""
TRAP = "from pathlib import Path\nPath({marker!r}).write_text('was run')\n{body}"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty project as the current folder; modules imported meanwhile are forgotten."""
    before = set(sys.modules)
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield folder
    for name in set(sys.modules) - before:
        if name.split(".")[0].startswith(("my", "bundle", "trap", "os", "nets")):
            del sys.modules[name]


def trap(path: Path, body: str = "def run(num_classes): pass\n") -> Path:
    """A module that leaves a mark when it is imported. -> the mark"""
    path.parent.mkdir(parents=True, exist_ok=True)
    marker = path.parent / f"{path.stem}.was_run"
    path.write_text(TRAP.format(marker=str(marker), body=body))
    return marker


def test_a_function_of_a_file_is_called_and_wrapped(project: Path) -> None:
    (project / "mynets.py").write_text(NET)
    torch.manual_seed(0)
    net = build("mynets:small", 4, 32).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(net.body(images), net.pool(net.features(images)))
        assert torch.equal(net(images), net.classify(net.features(images)))
    assert (net.channels, net.fc.out_features) == (5, 4)
    assert net.library_names["head.weight"] == "fc.weight"
    assert build("mynets:Small", 4).fc.in_features == 5  # a class; no size given


VIEWED = """
from torch import nn

class Viewed(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        self.head = nn.Linear(5 * 6 * 6, num_classes)

    def forward(self, x):
        x = self.conv(x)
        return self.head(x.view(x.size(0), -1))
"""


def test_maps_may_be_flattened_by_view(project: Path) -> None:
    """Which refuses channels_last, the order that all networks run in here."""
    (project / "mynets.py").write_text(VIEWED)
    net = build("mynets:Viewed", 4, 8).eval()
    images = torch.randn(2, 3, 8, 8)
    expected = net(images)
    net.to(memory_format=torch.channels_last)
    found = net(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected)


TWICE = """
from torch import nn

class Twice(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        self.tied = nn.Conv2d(3, 5, 3)
        self.tied.weight = self.conv.weight
        self.head = nn.Linear(5, num_classes)
        self.whole = nn.Sequential(self.conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), self.head)

    def forward(self, x):
        return self.whole(x)
"""


def test_layers_may_have_two_names_and_share_a_tensor(project: Path) -> None:
    (project / "mynets.py").write_text(TWICE)
    net = build("mynets:Twice", 3, 32).eval()
    assert (net.channels, parameters(net)) == (5, 3 * 5 * 9 + 5 + 5 + 5 * 3 + 3)
    save_network(project / "teacher", net, card("mynets:Twice"))
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(load_network(project / "teacher").net(images), net(images))
    own = sys.modules["mynets"].Twice(3).eval()
    torch.save(own.state_dict(), "weights.pt")
    load_weights(net, Path("weights.pt"), "mynets:Twice")
    torch.testing.assert_close(net(images), own(images))


def test_the_file_of_a_network_is_named_as_an_input(project: Path) -> None:
    (project / "nets").mkdir()
    (project / "nets" / "mine.py").write_text(NET)
    assert own_code("resnet8", "nets.mine:small", "timm:resnet18") == ["nets/mine.py"]
    assert own_code("resnet8", "wrn-16-1") == []


def test_packages_and_their_relative_imports(project: Path) -> None:
    (project / "mynets" / "deep").mkdir(parents=True)
    (project / "mynets" / "deep" / "__init__.py").write_text("")
    (project / "mynets" / "layers.py").write_text(NET)
    (project / "mynets" / "deep" / "net.py").write_text(
        "from ..layers import Small\nfrom mynets import layers\n"
        "def make(num_classes):\n    assert layers.Small is Small\n    return Small(num_classes)\n"
    )
    assert build("mynets.deep.net:make", 3, 16).channels == 5


def test_a_classifier_is_used_as_it_is(project: Path) -> None:
    (project / "mynets.py").write_text(
        "from webdistill.models.zoo import build\n"
        "def twenty(num_classes):\n    return build('resnet20', num_classes)\n"
    )
    net = build("mynets:twenty", 3, 32)
    assert isinstance(net, Classifier)
    assert net.state_dict().keys() == build("resnet20", 3).state_dict().keys()


@pytest.mark.parametrize(
    "name",
    ["os:system", "subprocess:run", "os.path:join", "webdistill.core.files:remove", "stages.fetch:run",
     "pipelines.shared.cell:main", "tests.conftest:x", "numpy:zeros", "torch.hub:load", "torchvision.models:alexnet"],
)  # fmt: skip
def test_libraries_and_this_project_are_never_called(project: Path, name: str) -> None:
    with pytest.raises(UserError, match="is never called|there is no file") as caught:
        parse(name)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError):
        build(name, 3)


@pytest.mark.parametrize("name", ["webdistill.core.files:remove", "stages.fetch.crawl:x"])
def test_this_project_is_not_called_where_it_is_the_current_folder(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(UserError, match="belongs to this project"):
        build(name, 3)


def test_a_file_named_like_the_standard_library_is_not_imported(project: Path) -> None:
    mark = trap(project / "os.py")
    with pytest.raises(UserError, match="belongs to Python's standard library"):
        build("os:run", 3)
    assert not mark.exists()


def test_modules_elsewhere_on_the_path_are_not_imported(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = [trap(tmp_path / "site" / "traplib.py"), trap(tmp_path / "site/trappack/__init__.py")]
    (tmp_path / "site/trappack/net.py").write_text(NET)
    monkeypatch.syspath_prepend(tmp_path / "site")
    (project / "traplink.py").symlink_to(tmp_path / "site" / "traplib.py")
    (project / "trappack").mkdir()  # only `net.py` is missing here
    for name in ("traplib:run", "traplink:run", "trappack.net:small", "trappack:run"):
        with pytest.raises(UserError, match="no file .* below the current folder"):
            build(name, 3)
    assert not [mark for mark in marks if mark.exists()]


def test_a_package_of_ones_own_hides_an_installed_one(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = trap(tmp_path / "site/mypack/__init__.py")
    monkeypatch.syspath_prepend(tmp_path / "site")
    (project / "mypack").mkdir()
    (project / "mypack" / "net.py").write_text(NET)
    assert build("mypack.net:small", 3, 16).channels == 5
    assert not mark.exists()


def test_a_name_in_use_is_refused(project: Path) -> None:
    (project / "numpy.py").write_text(NET)
    with pytest.raises(UserError, match="another module named 'numpy' is in use"):
        build("numpy:small", 3)


def test_only_what_the_file_defines_is_called(project: Path) -> None:
    (project / "mynets.py").write_text("from pathlib import Path as run\nfrom os import system\n")
    for function in ("run", "system", "missing", "__doc__"):
        with pytest.raises(UserError, match=f"defines no function or class '{function}'"):
            build(f"mynets:{function}", 3)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "def make(num_classes):\n    return 1 / 0\n",
            r"ZeroDivisionError in .*mynets\.py, line 2",
        ),
        ("import nothing_of_the_kind\n", "ModuleNotFoundError in"),
        ("def make(num_classes:\n", "SyntaxError"),
        ("def make():\n    pass\n", "TypeError"),
        ("def make(num_classes):\n    return 'net'\n", "must return a torch.nn.Module, not str"),
    ],
)
def test_faults_of_the_file_are_told_in_one_line(project: Path, body: str, message: str) -> None:
    (project / "mynets.py").write_text(body)
    with pytest.raises(UserError, match=message) as caught:
        build("mynets:make", 3)
    assert "\n" not in str(caught.value)


# -- teachers on disk ----------------------------------------------------------------------------------------
def card(architecture: str) -> dict[str, object]:
    return {
        "architecture": architecture, "classes": ["a", "b", "c"], "image_size": 32,
        "mean": [0.5] * 3, "std": [0.25] * 3,
    }  # fmt: skip


def test_a_teacher_of_ones_own_is_saved_and_loaded(project: Path) -> None:
    (project / "mynets.py").write_text(NET)
    net = build("mynets:small", 3, 32).eval()
    save_network(project / "teacher", net, card("mynets:small"))
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(load_network(project / "teacher").net(images), net(images))


def test_the_state_dict_of_the_unwrapped_network_loads(project: Path) -> None:
    (project / "mynets.py").write_text(NET)
    net = build("mynets:small", 3, 32)
    save_network(project / "teacher", net, card("mynets:small"))
    own = nn.Module()
    own.conv, own.head = net.body.conv, net.fc
    (project / "teacher" / "weights.safetensors").unlink()
    torch.save(own.state_dict(), project / "teacher" / "weights.pt")
    path = project / "teacher" / "config.json"
    from webdistill.core.files import sha256_file

    digest = sha256_file(project / "teacher" / "weights.pt")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sha256": digest}))
    loaded = load_network(project / "teacher").net
    assert torch.equal(loaded.fc.weight, net.fc.weight)


@pytest.mark.parametrize("where", ["bundle/teacher", "bundle", "."])
@pytest.mark.parametrize("key", ["architecture", "classifier_of"])
def test_code_that_came_with_the_teacher_is_not_called(project: Path, where: str, key: str) -> None:
    """Whoever sent the card may have sent the code."""
    save_network(project / where, build("resnet8", 3), card("resnet8"))
    mark = trap(project / "bundle" / "code" / "net.py")
    path = project / where / "config.json"
    evil = "bundle.code.net:run"
    changes = {key: evil} if key == "architecture" else {"projector": {key: evil, "side": 4}}
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError, match="which lies beside it"):
        load_network(Path(where))
    assert not mark.exists()


def test_a_network_without_an_evaluation_mode_is_refused_in_one_line(project: Path) -> None:
    body = (
        "from torch import nn\n\nclass Net(nn.Module):\n    def __init__(self, num_classes):\n"
        "        super().__init__()\n\n    def train(self, mode=True):\n"
        "        raise NotImplementedError('Calling eval() is not supported yet.')\n"
    )
    (project / "mymodes.py").write_text(body)
    with pytest.raises(
        UserError, match=r"^mymodes:Net: its eval\(\) fails .Calling eval"
    ) as caught:
        build("mymodes:Net", 3)
    assert "\n" not in str(caught.value)
