"""The JSON configuration of a DeepProfiler project, every key known by name.

`null` is as good as leaving a key out. What only the original programs use is known, too, and not looked at.
Beyond the original's keys there are `train.partition.test_values` and `dataset.locations.mask_kind`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from ground.documents import parse_json, read_text
from ground.errors import BadInput
from ground.schemas import nearest, told

PATHS = (
    "root", "config", "config_file", "config_folder", "images", "locations", "metadata", "outlines", "index",
    "intensities", "compressed_images", "compressed_metadata", "single_cell_set", "sc_index", "results", "checkpoints",
    "logs", "summaries", "features", "training", "preprocessed", "pretrained",
)  # fmt: skip
"""Folders that a project may have elsewhere."""


def _text(value: Any) -> Any:
    """Values of index columns are text there; JSON may have them as numbers."""
    if isinstance(value, (list, tuple)):
        return [_text(part) for part in value]
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


Text = Annotated[str, BeforeValidator(_text)]
Texts = Annotated[list[str], BeforeValidator(_text)]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)


class Metadata(_Section):
    """Which index columns say what a site is."""

    label_field: str
    control_value: Text = Field("", validation_alias=AliasChoices("control_value", "control_id"))
    control_field: str | None = None
    label_composition: list[str] | None = None


class Images(_Section):
    """What images are like; `channels` are index columns, in the networks' order."""

    channels: list[str] = Field(min_length=1)
    file_format: str = ""
    bits: Literal[8, 16] | None = None
    width: int | None = Field(None, ge=1)
    height: int | None = Field(None, ge=1)


class Locations(_Section):
    """What is cut out of an image: `box_size` is the side of a crop, in pixels."""

    mode: Literal["single_cells", "full_image"] = "single_cells"
    box_size: int = Field(ge=2, le=4096)
    mask_objects: bool = False
    mask_kind: Literal["outline", "filled"] = "outline"
    area_coverage: float = Field(1.0, gt=0, le=1)
    view_size: int | None = None


class Dataset(_Section):
    metadata: Metadata
    images: Images
    locations: Locations


class Illumination(_Section):
    """How the illumination of a plate is estimated: the scale of the mean image, and the side of the median filter."""

    down_scale_factor: float = Field(4, ge=1)
    median_filter_size: int = Field(24, ge=2)


class Compression(_Section):
    implement: bool = False
    scaling_factor: float = Field(1.0, gt=0, le=4)


class Prepare(_Section):
    illumination_correction: Illumination = Illumination.model_validate({})
    compression: Compression = Compression.model_validate({})
    outlines: str = ""


class Partition(_Section):
    """Which values of the index column `split_field` are for training, validation and test."""

    targets: list[str] = []
    split_field: str = "Split"
    training_values: Texts = Field(["Training"], validation_alias=AliasChoices("training_values", "training"))
    validation_values: Texts = Field(["Validation"], validation_alias=AliasChoices("validation_values", "validation"))
    test_values: Texts = Field(validation_alias=AliasChoices("test_values", "test"))

    @model_validator(mode="before")
    @classmethod
    def _no_test(cls, given: Any) -> Any:
        """Unless said otherwise Test is for the test, but where validation or training has it already."""
        if not isinstance(given, dict) or "test_values" in given or "test" in given:
            return given
        names = [f"{part}{end}" for part in ("training", "validation") for end in ("", "_values")]
        taken = "Test" in [value for name in names for value in _listed(given.get(name))]
        return given | {"test_values": [] if taken else ["Test"]}


class Params(_Section):
    learning_rate: float | None = None
    batch_size: int | None = None
    conv_blocks: int | None = None
    label_smoothing: float = 0.0
    feature_dim: int | None = None
    pooling: str | None = None
    latent_dim: int | None = None
    epsilon_std: float | None = None
    online_label_smoothing: float | None = None
    online_lambda: float | None = None


class Model(_Section):
    name: str = ""
    crop_generator: str = ""
    augmentations: bool = False
    metrics: list[str] = []
    epochs: int | None = None
    steps: int | None = None
    initialization: str = ""
    checkpoint_policy: int | str | None = None
    save_all: bool | None = None
    lr_schedule: str | dict[str, list[float]] | None = None
    params: Params = Params()


class Sampling(_Section):
    """`factor` of the median cells of a site are drawn from each."""

    factor: float = Field(1.0, gt=0)
    workers: int | None = None
    cache_size: int | None = None
    alpha: float | None = None


class Validation(_Section):
    frequency: int | None = None
    top_k: int | None = None
    batch_size: int | None = None
    sample_first_crops: bool | None = None
    frame: str | None = None
    save_features: bool | None = None


class Train(_Section):
    partition: Partition = Partition.model_validate({})
    model: Model = Model()
    sampling: Sampling = Sampling.model_validate({})
    validation: Validation = Validation()
    pretrained: bool | None = None
    gpus: Any = None
    comet_ml: dict[str, Any] | None = None


class Profile(_Section):
    feature_layer: str = ""
    checkpoint: str | None = None
    batch_size: int | None = None
    use_pretrained_input_size: int | bool | None = None
    pretrained: bool | None = None
    gpu: Any = None
    gpus: Any = None


class Config(_Section):
    """A project's configuration, read by `Config.read`."""

    dataset: Dataset
    prepare: Prepare = Prepare()
    train: Train = Train()
    profile: Profile = Profile()
    paths: dict[str, str] = {}

    @property
    def channels(self) -> tuple[str, ...]:
        return tuple(self.dataset.images.channels)

    @property
    def box(self) -> int:
        """The side of a crop, in pixels."""
        return self.dataset.locations.box_size

    @classmethod
    def read(cls, path: Path) -> Config:
        """The configuration in a JSON file.

        Raises:
            BadInput: no such file, no JSON, an unknown key (with the nearest known one), a value that cannot be, a
                channel named twice, or a target other than the label field.
        """
        return cls.of(parse_json(read_text(path), str(path)), str(path))

    @classmethod
    def of(cls, content: Any, where: str) -> Config:
        """The configuration that a JSON value is; raises as `read`, with `where` at the head of each line."""
        if not isinstance(content, dict):
            raise BadInput(f"{where}: expected a JSON object of sections (dataset, prepare, train, profile, paths)")
        try:
            config = cls.model_validate(_without_null(content))
        except ValidationError as error:
            raise BadInput(f"{where}: {' '.join(_line(error).split())}") from None
        return config._agrees(where)

    def _agrees(self, where: str) -> Config:
        channels, targets = self.dataset.images.channels, self.train.partition.targets
        label = self.dataset.metadata.label_field
        twice = next((name for name in channels if channels.count(name) > 1), None)
        if twice is not None:
            raise BadInput(f"{where}: dataset.images.channels has {twice} twice")
        if targets and targets[0] != label:
            raise BadInput(
                f"{where}: train.partition.targets begins with {targets[0]}, dataset.metadata.label_field is {label}; "
                "one column draws, is learned and names the controls: give both the same"
            )
        unknown = next((name for name in self.paths if name not in PATHS), None)
        if unknown is not None:
            raise BadInput(f"{where}: unknown key paths.{' '.join(unknown.split())}{nearest(unknown, PATHS)}")
        partition = self.train.partition
        parts = [partition.training_values, partition.validation_values, partition.test_values]
        for value in parts[0]:
            if value in parts[1] or value in parts[2]:
                raise BadInput(f"{where}: train.partition has {value!r} for training and for validation or test")
        return self


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_null(part) for key, part in value.items() if part is not None}
    return value


def _line(error: ValidationError) -> str:
    """The first thing that is wrong, and how many more there are."""
    errors = error.errors(include_url=False)
    first = errors[0]
    at = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        line = f"unknown key {'.'.join(at)}{nearest(at[-1], _known(at[:-1]))}"
    else:
        line = told(first)
    return line + (f" (and {len(errors) - 1} more)" if len(errors) > 1 else "")


def _known(at: list[str]) -> list[str]:
    """The keys of the section at a place."""
    section: type[BaseModel] = Config
    for name in at:
        found = section.model_fields[name].annotation
        assert isinstance(found, type)
        section = found
    names = []
    for name, info in section.model_fields.items():
        alias = info.validation_alias
        names += [str(choice) for choice in alias.choices] if isinstance(alias, AliasChoices) else [name]
    return names
