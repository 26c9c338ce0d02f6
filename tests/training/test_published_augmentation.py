"""What happens to photos on their way into a training of ImageNet, against the live reference: bit for bit."""

import inspect
import itertools

import pytest
import torch
from bcos.data.datamodules import ImageNetDataModule
from PIL import Image
from skimage import data as bundled
from sklearn.datasets import load_sample_images
from torch.utils.data import Dataset
from torchvision.transforms import autoaugment, v2

from bcos_vit.config import build
from bcos_vit.data.imagenet import imagenet_classes
from reference import NAMES
from runs import config
from toys import toy

FAMILIES = ("bcos_vitc_ti_patch1_14", "standard_vitc_ti_patch1_14")


@pytest.fixture(scope="module")
def published():
    """Our name -> the reference's own configuration of the data."""
    from bcos.experiments.ImageNet.vit_final.experiment_parameters import CONFIGS  # seconds

    return {name: CONFIGS[name.removeprefix("standard_")]["data"] for name in NAMES}


@pytest.fixture(scope="module")
def data():
    """``data`` of an experiment, resolved."""
    return config(f"experiment=imagenet/{FAMILIES[0]}", "image_size=224").data


@pytest.fixture(scope="module")
def photos():
    """Real ones, wide, square and upright, one of them smaller than a crop."""
    arrays = [bundled.astronaut(), bundled.chelsea(), bundled.coffee(), *load_sample_images().images]
    found = [Image.fromarray(array) for array in arrays]
    return [*found, found[1].rotate(90, expand=True), found[0].crop((100, 30, 280, 180))]


def assert_same_image(found, expected):
    """Of the same bytes: v2 multiplies by 1/255 where the reference divides by 255, which may round differently."""
    assert found.shape == expected.shape == (3, 224, 224)
    assert found.dtype == expected.dtype == torch.float32
    assert torch.equal(v2.functional.to_dtype(found, torch.uint8, scale=True), (255 * expected).round().byte())
    torch.testing.assert_close(found, expected, rtol=0, atol=6e-8)


def before_encoding(preset):
    """A transform of the reference without its last part, which our models do themselves."""
    *parts, encoding = preset.transforms.transforms
    assert type(encoding).__name__ in ("AddInverse", "Normalize")
    return lambda image: v2.Compose(parts)(image), encoding


def test_crop_and_flip_are_the_published_ones(data, published, photos):
    ours = build(data.train_transform).transforms[:2]
    theirs = published[FAMILIES[0]]["train_transform"].transforms.transforms[:2]
    crops = set()
    for number, photo in enumerate(photos):
        for seed in range(6):
            torch.manual_seed(100 * number + seed)
            found = ours[1](ours[0](photo))
            torch.manual_seed(100 * number + seed)
            expected = theirs[1](theirs[0](photo))
            assert found.size == expected.size == (224, 224)
            assert found.tobytes() == expected.tobytes()
            crops.add(found.tobytes())
    assert len(crops) == 6 * len(photos)


# --- RandAugment ---

OPERATIONS = list(autoaugment.RandAugment()._augmentation_space(31, (1, 1)))
SIGNED = [name for name, (_, signed) in autoaugment.RandAugment()._augmentation_space(31, (1, 1)).items() if signed]


class Drawn:
    """Lets both versions of RandAugment draw the same operations and signs; all else is drawn as ever."""

    def __init__(self, patch, *draws):
        self.operations = [OPERATIONS.index(name) for name, _ in draws]
        self.negative = [negative for name, negative in draws if name in SIGNED]
        self.randint, self.rand = torch.randint, torch.rand
        patch.setattr(torch, "randint", self.draw_whole)
        patch.setattr(torch, "rand", self.draw_real)

    def draw_whole(self, first, *given, **options):
        if first == len(OPERATIONS):  # which operation, in both versions
            return torch.tensor([self.operations.pop(0)])
        if first == 2 and given == ((1,),):  # which sign, in the reference
            return torch.tensor([int(self.negative.pop(0))])
        return self.randint(first, *given, **options)

    def draw_real(self, *size, **options):
        if size == ((),):  # which sign, in ours
            return torch.tensor(0.25 if self.negative.pop(0) else 0.75)
        return self.rand(*size, **options)

    def nothing_is_left(self):
        return not self.operations and not self.negative


def augmented(transform, photo, *draws):
    with pytest.MonkeyPatch.context() as patch:
        drawn = Drawn(patch, *draws)
        found = transform(photo)
    assert drawn.nothing_is_left()
    return found


def test_operations_of_randaugment_are_the_published_ones_and_equally_likely(data, published):
    ours, theirs = (build(data.train_transform).transforms[2], published[FAMILIES[0]]["train_transform"].transforms)
    assert list(ours._AUGMENTATION_SPACE) == OPERATIONS
    assert len(OPERATIONS) == 14
    assert [name for name, (_, signed) in ours._AUGMENTATION_SPACE.items() if signed] == SIGNED
    assert (ours.num_ops, ours.magnitude) == (theirs.transforms[2].num_ops, theirs.transforms[2].magnitude)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_of_randaugment_is_the_published_one(name, data, published, photos):
    ours = build(data.train_transform).transforms[2]
    theirs = published[FAMILIES[0]]["train_transform"].transforms.transforms[2]
    for photo, negative in itertools.product(photos[:4], (False, True)):
        size = photo.resize((224, 224) if negative else (96, 130))  # a side's length says how far it moves
        draws = ((name, negative), ("Identity", False))
        found, expected = augmented(ours, size, *draws), augmented(theirs, size, *draws)
        assert found.tobytes() == expected.tobytes()
        if name not in ("Identity", "AutoContrast"):  # which need not change a photo
            assert found.tobytes() != size.tobytes()


def test_every_value_of_a_pixel_is_solarised_and_posterised_alike(data, published):
    ours = build(data.train_transform).transforms[2]
    theirs = published[FAMILIES[0]]["train_transform"].transforms.transforms[2]
    ramp = torch.arange(256, dtype=torch.uint8).repeat(3, 4, 1)
    photo = v2.functional.to_pil_image(ramp)
    for name in ("Solarize", "Posterize", "Equalize", "AutoContrast", "Brightness", "Contrast"):
        draws = ((name, False), ("Identity", False))
        assert augmented(ours, photo, *draws).tobytes() == augmented(theirs, photo, *draws).tobytes(), name


@pytest.mark.parametrize("name", FAMILIES)
def test_whole_training_transform_is_the_published_one(name, data, published, photos):
    ours = build(data.train_transform)
    theirs, encoding = before_encoding(published[name]["train_transform"])
    encode = toy(name).encoding
    random = torch.Generator().manual_seed(0)
    for seed, photo in enumerate(photos + photos):
        first, second, signs = (int(torch.randint(14, (), generator=random)) for _ in range(3))
        draws = ((OPERATIONS[first], signs % 2 == 0), (OPERATIONS[second], signs % 3 == 0))
        torch.manual_seed(seed)
        found = augmented(ours, photo, *draws)
        torch.manual_seed(seed)
        expected = augmented(theirs, photo, *draws)
        assert_same_image(found, expected)
        torch.testing.assert_close(encode(found[None])[0], encoding(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_evaluation_transform_is_the_published_one(name, data, published, photos):
    ours = build(data.eval_transform)
    theirs, encoding = before_encoding(published[name]["test_transform"])
    encode = toy(name).encoding
    for photo in photos:
        found, expected = ours(photo), theirs(photo)
        assert_same_image(found, expected)
        torch.testing.assert_close(encode(found[None])[0], encoding(expected), rtol=0, atol=1e-6)


# --- mixup ---


class Noise(Dataset):
    """Two batches of images of many classes."""

    class_names = tuple(imagenet_classes().values())
    licence = "none"

    def __init__(self, split, transform):
        self.images = torch.rand(10, 3, 9, 7, generator=torch.Generator().manual_seed(1))

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], 111 * index  # 0 ... 999


@pytest.fixture(scope="module")
def mixed(data):
    """Items of a batch -> images and targets, as the configured data module makes them."""
    module = build(data, dataset=Noise, root=None, num_workers=0, train_transform=None, eval_transform=None)
    return module.train_dataloader().collate_fn


ITEMS = [Noise("train", None)[index] for index in range(10)]


def test_mixup_is_the_published_one_after_one_draw_more(mixed, published):
    theirs = ImageNetDataModule.get_train_collate_fn(mixup_alpha=published[FAMILIES[0]]["mixup_alpha"])
    shares = set()
    for seed in range(200):
        items = ITEMS[: 2 + seed % 9]
        torch.manual_seed(seed)
        expected_images, expected_targets = theirs(items)
        torch.manual_seed(seed)
        torch.rand(1)  # the reference asks whether to mix at all, always yes
        images, targets = mixed(items)
        assert images.dtype == targets.dtype == torch.float32
        assert targets.shape == (len(items), 1000)
        assert torch.equal(images, expected_images)
        assert torch.equal(targets, expected_targets)
        shares.add(float(targets[0, 0]))
    assert len(shares) > 150
    assert sum(share < 0.01 or share > 0.99 for share in shares) > 60  # Beta(0.2, 0.2): most are hardly mixed


def test_mixup_draws_one_share_a_batch_and_mixes_neighbours(mixed):
    plain = torch.stack([image for image, _ in ITEMS])
    for seed in range(20):
        torch.manual_seed(seed)
        images, targets = mixed(ITEMS)
        after = torch.get_rng_state()
        torch.manual_seed(seed)
        share = torch._sample_dirichlet(torch.tensor([0.2, 0.2]))[0]
        assert torch.equal(torch.get_rng_state(), after)  # nothing else was drawn
        torch.testing.assert_close(images, share * plain + (1 - share) * plain.roll(1, 0), rtol=1e-6, atol=1e-6)
        for row, (_, label) in enumerate(ITEMS):
            expected = torch.zeros(1000)
            expected[label] += share
            expected[ITEMS[row - 1][1]] += 1 - share
            torch.testing.assert_close(targets[row], expected, rtol=1e-6, atol=1e-6)


def test_evaluation_is_not_mixed(data):
    module = build(data, dataset=Noise, root=None, num_workers=0, train_transform=None, eval_transform=None)
    for loader in (module.val_dataloader(), module.test_dataloader()):
        images, labels = next(iter(loader))
        assert torch.equal(images, Noise("val", None).images)
        assert labels.tolist() == [label for _, label in ITEMS]


def test_reference_mixes_every_batch_of_its_training_and_nothing_else(published):
    collate = ImageNetDataModule.get_train_collate_fn(mixup_alpha=published[FAMILIES[0]]["mixup_alpha"])
    (mixup,) = inspect.getclosurevars(collate).nonlocals["mixupcutmix"].transforms
    assert (mixup.p, mixup.alpha, mixup.num_classes) == (1, 0.2, 1000)
