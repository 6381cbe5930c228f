"""Feature extractors: what every kind owes its callers, and what each is made of."""

import hashlib
import io
from typing import Literal

import pytest
import torch

from diffkit.data.base import DataInfo, Dataset
from diffkit.data.digits import Digits
from diffkit.data.memory import InMemory
from diffkit.data.pixels import to_unit
from diffkit.errors import Diverged, UserError
from diffkit.evaluation import classifier, features, inception
from diffkit.evaluation.classifier import ClassifierFeatures
from diffkit.evaluation.features import Features
from diffkit.evaluation.inception import Inception
from diffkit.evaluation.pixels import Pixels
from diffkit.testing import kinds_of


class Likeness(torch.nn.Module):
    """Called as the Inception file is; its features are easy to foresee."""

    def forward(
        self, img: torch.Tensor, return_features: bool = False, use_fp16: bool = False, no_output_bias: bool = False
    ) -> torch.Tensor:
        assert img.size(1) == 3
        assert img.dtype == torch.uint8
        assert return_features
        return img.float().mean(dim=2).flatten(1)


pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # the file is TorchScript


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DIFFKIT_DATA", raising=False)
    return tmp_path / "cache/diffkit"


@pytest.fixture
def likeness(tmp_path, monkeypatch):
    """A file that is taken for Inception's."""
    content = io.BytesIO()
    torch.jit.save(torch.jit.script(Likeness()), content)
    file = tmp_path / "likeness.pt"
    file.write_bytes(content.getvalue())
    digest = hashlib.sha256(content.getvalue()).hexdigest()
    monkeypatch.setattr(inception, "FILE", inception.RemoteFile(inception.FILE.name, inception.FILE.urls, digest))
    return file


def a_dataset(images, labels, classes, channels=1):
    """A data set of given images."""

    class Mine(Dataset):
        kind: Literal["mine"] = "mine"

        def info(self):
            return DataInfo(channels, *images.shape[2:], classes)

        def open(self):
            return InMemory(images, labels)

    return Mine()


def draw(count, channels, side=8):
    generator = torch.Generator().manual_seed(count)
    return torch.randint(256, (count, channels, side, side), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", kinds_of(Features, steps=2, batch_size=4))
class TestEveryKind:
    def prepared(self, kind, channels, likeness):
        if isinstance(kind, Inception):
            kind = kind.model_copy(update={"file": likeness})
        return kind.prepare(a_dataset(draw(9, channels), torch.arange(9) % 2, ("a", "b"), channels))

    def test_the_last_partial_batch_counts(self, kind, channels, likeness, monkeypatch):
        extractor = self.prepared(kind, channels, likeness)
        images = draw(7, channels)
        whole = extractor.extract(images)
        assert (whole.dtype, whole.dim(), len(whole)) == (torch.float32, 2, 7)
        monkeypatch.setattr(features, "AT_ONCE", 3)
        torch.testing.assert_close(extractor.extract(images), whole, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(extractor.extract(images[6:]), whole[6:], rtol=1e-5, atol=1e-5)

    def test_images_differ_in_their_features(self, kind, channels, likeness):
        found = self.prepared(kind, channels, likeness).extract(draw(3, channels))
        assert torch.pdist(found).min() > 0

    def test_what_is_no_image(self, kind, channels, likeness):
        extractor = self.prepared(kind, channels, likeness)
        for images in (draw(2, channels).float(), draw(2, channels)[0], draw(0, channels)):
            with pytest.raises(ValueError, match="images are uint8"):
                extractor.extract(images)

    def test_a_report_says_which(self, kind, channels, likeness):
        about = kind.about(self.prepared(kind, channels, likeness))
        assert about["kind"] == kind.kind
        assert (about["sha256"] is None) == isinstance(kind, Pixels)


def test_pixels_are_pixels():
    images = draw(2, 3)
    assert torch.equal(Pixels().prepare(Digits()).extract(images), to_unit(images).reshape(2, 192))


class TestInception:
    def test_grey_images_are_shown_as_rgb(self, likeness):
        extractor = Inception(file=likeness).prepare(Digits())
        grey = draw(4, 1)
        assert torch.equal(extractor.extract(grey), extractor.extract(grey.repeat(1, 3, 1, 1)))

    def test_colors_keep_their_order(self, likeness):
        images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
        images[:, 0] = 200
        found = Inception(file=likeness).prepare(Digits()).extract(images).view(3, 8)
        assert found[0].tolist() == [200] * 8
        assert found[1:].count_nonzero() == 0

    def test_another_file_is_never_loaded(self, tmp_path, monkeypatch):
        monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("it was loaded"))
        content = io.BytesIO()
        torch.jit.save(torch.jit.script(Likeness()), content)
        (tmp_path / "other.pt").write_bytes(content.getvalue())
        with pytest.raises(
            UserError, match=r"other.pt: is not inception-2015-12-05.pt: its SHA-256 is \w{64}, not f58c"
        ):
            Inception(file=tmp_path / "other.pt").prepare(Digits())
        (tmp_path / "cache/diffkit/data/inception").mkdir(parents=True)
        (tmp_path / "other.pt").rename(tmp_path / "cache/diffkit/data/inception/inception-2015-12-05.pt")
        with pytest.raises(UserError, match=r"is not inception-2015-12-05\.pt"):
            Inception().prepare(Digits())

    def test_a_file_that_is_not_there(self, tmp_path):
        with pytest.raises(UserError, match=r"features.file = .*none.pt: there is no such file"):
            Inception(file=tmp_path / "none.pt").prepare(Digits())

    def test_it_is_downloaded_once(self, likeness, cache, monkeypatch):
        asked = []

        def download(file, folder):
            asked.append(file.urls[0])
            (folder / file.name).write_bytes(likeness.read_bytes())

        monkeypatch.setattr("diffkit.data.download.download", download)
        for _ in range(2):
            Inception().prepare(Digits())
        assert len(asked) == 1
        assert (cache / "data/inception/inception-2015-12-05.pt").is_file()

    def test_what_to_do_without_a_network(self, cache, monkeypatch):
        from diffkit.data.download import Unavailable

        def download(file, folder):
            raise Unavailable("no connection to a.b")

        monkeypatch.setattr("diffkit.data.download.download", download)
        with pytest.raises(
            UserError, match=r"cannot be downloaded: no connection to a.b\nFetch https.*\nand put it into"
        ):
            Inception().prepare(Digits())

    def test_images_of_other_channels_are_refused(self, likeness):
        with pytest.raises(UserError, match="takes grey or RGB images, not 2 channels"):
            Inception(file=likeness).prepare(a_dataset(draw(4, 2), None, (), channels=2))


class TestClassifier:
    SHORT = ClassifierFeatures(channels=4, size=12, steps=3, batch_size=16)

    def test_it_learns_the_classes(self):
        images = Digits().open()
        extractor = ClassifierFeatures(channels=8, steps=150, batch_size=64).prepare(Digits())
        found = extractor.extract(images.pixels(torch.arange(1797)))
        right = extractor.classes(found) == images.labels(torch.arange(1797))
        assert found.shape == (1797, 128)
        assert right.float().mean() > 0.9

    def test_the_seed_decides_all(self, cache):
        def weights(seed):
            made = self.SHORT.model_copy(update={"seed": seed}).prepare(Digits()).sha256
            for file in (cache / "classifiers").iterdir():
                file.unlink()
            return made

        torch.manual_seed(1)
        first = weights(0)
        torch.manual_seed(2)
        assert weights(0) == first
        assert weights(1) != first

    def test_it_is_trained_once(self, monkeypatch):
        first = self.SHORT.prepare(Digits())
        monkeypatch.setattr(classifier, "_train", lambda *_: pytest.fail("it was trained again"))
        second = self.SHORT.prepare(Digits())
        assert first.sha256 == second.sha256
        images = draw(5, 1)
        assert torch.equal(first.extract(images), second.extract(images))

    def test_other_settings_images_or_labels_have_another(self):
        images, labels = draw(8, 1), torch.arange(8) % 2
        info = DataInfo(1, 8, 8, ("a", "b"))
        known = InMemory(images, labels)
        other = images.clone()
        other[7, 0, 7, 7] ^= 1
        files = [
            self.SHORT.file(info, known),
            self.SHORT.model_copy(update={"steps": 4}).file(info, known),
            self.SHORT.file(info, InMemory(other, labels)),
            self.SHORT.file(info, InMemory(images, 1 - labels)),
            self.SHORT.file(DataInfo(1, 8, 8, ("a", "b", "c")), known),
        ]
        assert len(set(files)) == 5
        assert self.SHORT.file(info, InMemory(images.clone(), labels.clone())) == files[0]

    def test_many_images_are_hashed_in_parts(self, monkeypatch):
        info, known = DataInfo(1, 8, 8, ("a", "b")), InMemory(draw(8, 1), torch.arange(8) % 2)
        monkeypatch.setattr(classifier, "ROWS", 3)
        first = self.SHORT.file(info, known)
        changed = draw(8, 1)
        changed[7] = 0
        assert self.SHORT.file(info, InMemory(changed, torch.arange(8) % 2)) != first

    @pytest.mark.parametrize("damage", [b"", b"nothing", None])
    def test_a_damaged_file_is_made_anew(self, cache, damage):
        first = self.SHORT.prepare(Digits())
        (file,) = (cache / "classifiers").iterdir()
        file.write_bytes(file.read_bytes()[:-4] if damage is None else damage)
        assert self.SHORT.prepare(Digits()).sha256 == first.sha256
        assert list((cache / "classifiers").iterdir()) == [file]

    def test_it_learns_from_the_part_for_training(self, monkeypatch):
        from diffkit.data.mnist import Mnist

        opened = []

        def open_part(self):
            opened.append(self.split)
            return InMemory(draw(6, 1, 28), torch.arange(6))

        monkeypatch.setattr(Mnist, "open", open_part)
        self.SHORT.prepare(Mnist(split="test"))
        assert opened == ["train"]

    def test_images_of_any_sides(self):
        for height, width in ((1, 1), (3, 9), (28, 28), (40, 64)):
            data = DataInfo(3, height, width, ("a", "b"))
            network = classifier.ClassifierNetwork(self.SHORT, data).eval()
            assert network(torch.zeros(2, 3, height, width)).shape == (2, 12)

    @pytest.mark.parametrize(("labels", "classes"), [(None, ()), (None, ("a", "b")), (torch.zeros(4).long(), ("a",))])
    def test_without_labels_there_is_none(self, labels, classes):
        with pytest.raises(UserError, match="the data set 'mine' has no labels to learn from: use inception or pixels"):
            self.SHORT.prepare(a_dataset(draw(4, 1), labels, classes))

    def test_a_training_that_diverged_is_not_kept(self, cache):
        with pytest.raises(Diverged, match=r"lower features\.lr"):
            self.SHORT.model_copy(update={"lr": 1e30}).prepare(Digits())
        assert not (cache / "classifiers").exists()


def test_only_a_classifier_knows_classes():
    assert Pixels().prepare(Digits()).classes(torch.zeros(2, 64)) is None


def test_parts_of_data_sets():
    from diffkit.data.base import of_split
    from diffkit.data.mnist import Mnist

    assert of_split(Mnist()).split == of_split(Mnist(), "test").split == "test"
    assert of_split(Mnist(split="test"), "train").split == "train"
    assert isinstance(of_split(Digits(), "train"), Dataset)
    with pytest.raises(UserError, match="split = test: the data set 'digits' has no images for testing: use train"):
        of_split(Digits(), "test")
