"""A network as a scikit-learn classifier; needs the `sklearn` extra (scikit-learn)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import backend
from .backend import Device
from .data import Dataset, DataSpec, Loader, Transform
from .extras import needed_for
from .models import build_model
from .models.own import tried
from .nn import CrossEntropyLoss, Module
from .optim import build_cosine_optimizer
from .training import Table, Trainer, predict

with needed_for("xpcnn.sklearn"):
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils import check_random_state, compute_class_weight
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data

Shape: TypeAlias = tuple[int, int, int]
_DTYPES = [np.float32, np.uint8]  # other numbers are converted to the first
# BLAS computes the columns of a product in blocks, of up to 32 of them, and those left over in another way, with other
# rounding. A sample in a batch of whole blocks has the same probabilities whichever samples are beside it.
_BLOCK = 32


class CNNClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Trains a network on images, or on the rows of a table, with the learning rate schedule of `xpcnn train`.

    `X` is images `(N, C, H, W)` or `(N, H, W)`, or rows `(N, features)`. With `image_shape` each row is an image.
    Without it `X` is a table, and the network gets each row as an image `(features, 1, 1)`. Images are uint8 or float,
    in `predict` as in `fit`. Each channel, or column of a table, is standardised by its mean and standard deviation in
    `fit`. `y` is `(N,)`, labels of any type.

    Args:
        model: a name in `models.MODELS`, or `function(in_shape, num_classes, seed=...)` that returns a `Module` from
            images `(N, *in_shape)` to logits `(N, num_classes)`. `"auto"` is `lenet5`; for images below 12×12 pixels
            `small_cnn`, and for tables `mlp`.
        image_shape: `(C, H, W)` or `(H, W)` of the images in rows; None if `X` has that shape, or is a table.
        epochs: passes over the training samples.
        batch_size: samples in a step.
        optimizer: a name in `optim.OPTIMIZERS`.
        lr: the highest learning rate; None for the optimizer's default. It rises over the first twentieth of the steps
            and then falls along a cosine to 0.
        weight_decay: as the optimizer defines it.
        class_weight: the weight of each class in the loss: a dictionary from label to weight, `"balanced"` for the
            inverse of their frequencies, or None for equal weights.
        augment: changes each batch of training images at random, such as `data.RandomShift(1)`; see `Loader`.
        device: where to train and predict: `"cpu"`, `"cuda"`, `"cuda:1"`, or `"auto"` for the GPU if there is one.
        random_state: an integer, a `numpy.random.RandomState`, or None: of initial weights, order and augmentation. The
            same integer on the same device gives the same bits.
        verbose: print a line after each epoch.

    Attributes:
        classes_: the distinct labels, sorted; the columns of `predict_proba`.
        n_features_in_: values in a sample, `C·H·W`.
        feature_names_in_: the names of the columns of a data frame.
        model_: the trained network.
        spec_: the `DataSpec` of the training samples, with their shape, mean and std.
        history_: for each epoch a dictionary with `"train_loss"`, `"train_accuracy"` and more; see `Trainer.records`.

    A fitted classifier is pickled with its arrays on the host. Loaded, it predicts on `device` again; to use it where
    that device is missing, call `set_params(device="cpu")`.

    Example:

        from sklearn.datasets import load_digits
        from sklearn.model_selection import cross_val_score
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import MinMaxScaler

        X, y = load_digits(return_X_y=True)  # (1797, 64)
        classifier = CNNClassifier(image_shape=(8, 8), random_state=0)
        cross_val_score(make_pipeline(MinMaxScaler(), classifier), X, y, cv=3)
    """

    def __init__(
        self,
        model: str | Callable[..., Module] = "auto",
        *,
        image_shape: Sequence[int] | None = None,
        epochs: int = 30,
        batch_size: int = 64,
        optimizer: str = "adamw",
        lr: float | None = None,
        weight_decay: float = 0.01,
        class_weight: Mapping[Any, float] | str | None = None,
        augment: Transform | None = None,
        device: Device | str = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.image_shape = image_shape
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.lr = lr
        self.weight_decay = weight_decay
        self.class_weight = class_weight
        self.augment = augment
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Train a new network.

        Args:
            X: images `(N, C, H, W)` or `(N, H, W)`, or rows `(N, features)`; finite.
            y: `(N,)`, the labels, of at least two classes.

        Returns:
            the classifier itself.

        Raises:
            ValueError: if samples, labels and parameters do not fit together.
            TypeError: if `X` is sparse.
            TrainingDivergedError: if the loss became infinite or not a number.
        """
        rows, shape = _rows(X)
        rows, targets = validate_data(self, rows, y, dtype=_DTYPES)
        check_classification_targets(targets)
        self.classes_, labels = np.unique(targets, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"expected labels of at least two classes, got one class: {self.classes_[0]}")
        shape = self._shape(shape, rows.shape[1])
        if _is_table(shape) and self.augment is not None:
            raise ValueError("augment is for images, but X is a table: rows of images need image_shape=(C, H, W)")
        names = [str(label) for label in self.classes_.tolist()]
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        loader = Loader(
            Dataset(_images(rows, shape), labels, classes=names, name="X"),
            self.batch_size,
            shuffle=True,
            seed=seed,
            transform=self.augment,
            device=backend.device(self.device),
        )
        self.spec_ = loader.spec
        self.model_ = self._network(seed).to(self.device)
        trainer = self._trainer(len(loader), targets)
        trainer.fit(loader, self.epochs)
        self.model_.eval().zero_grad()  # gradients would double the size of a pickle
        self.history_ = trainer.records
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the probability of each class for each sample, `(N, classes)`; each row sums to 1.

        Args:
            X: samples of the shape and kind of pixels as in `fit`; images may be rows.

        Raises:
            NotFittedError: if `fit` was not called.
            ValueError: if the samples do not fit those of `fit`.
        """
        check_is_fitted(self, "history_")  # which comes last
        rows, shape = _rows(X)
        if shape not in (None, self.spec_.shape):
            raise ValueError(f"expected images (C, H, W) = {self.spec_.shape}, as in fit, got {shape}")
        rows = validate_data(self, rows, dtype=_DTYPES, reset=False)
        images = self.spec_.checked(_images(rows, self.spec_.shape))
        probabilities = _in_blocks(self.model_.to(self.device), images, self.spec_).astype(np.float64)
        normalised: NDArray[np.float64] = probabilities / probabilities.sum(axis=1, keepdims=True)
        return normalised

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the most probable label of each sample, `(N,)`; for `X` and errors see `predict_proba`."""
        best = self.predict_proba(X).argmax(axis=1)
        labels: NDArray[Any] = self.classes_[best]
        return labels

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        if "model_" in state:
            state = state | {"model_": copy.deepcopy(self.model_).to("cpu")}
        return state

    def _shape(self, found: Shape | None, features: int) -> Shape:
        """Return `(C, H, W)` of the samples in `fit`.

        Args:
            found: that of `X`; None for rows.
            features: values in a row.
        """
        if self.image_shape is None:
            return (features, 1, 1) if found is None else found
        sizes = tuple(self.image_shape)
        if len(sizes) not in (2, 3) or not all(isinstance(size, Integral) and size > 0 for size in sizes):
            raise ValueError(f"image_shape must be (C, H, W) or (H, W), got {self.image_shape!r}")
        C, H, W = given = _channels_first(sizes)
        if found not in (None, given):
            raise ValueError(f"image_shape is {self.image_shape}, but X has images (C, H, W) = {found}")
        if features != C * H * W:
            raise ValueError(f"image_shape {self.image_shape} has {C * H * W} values, but rows of X have {features}")
        return given

    def _network(self, seed: int) -> Module:
        """Return the untrained network for the samples and classes."""
        shape, classes = self.spec_.shape, len(self.classes_)
        if isinstance(self.model, str):
            try:
                return build_model(_usual(shape) if self.model == "auto" else self.model, shape, classes, seed=seed)
            except ValueError as error:
                if _is_table(shape):
                    raise ValueError(f"{error}; rows of images need image_shape=(C, H, W)") from error
                raise
        name = getattr(self.model, "__name__", type(self.model).__name__)
        return tried(self.model, shape, classes, seed=seed, name=name)

    def _trainer(self, batches: int, targets: NDArray[Any]) -> Trainer:
        """Return the trainer for epochs of this many batches."""
        if not isinstance(self.epochs, Integral) or self.epochs < 1:
            raise ValueError(f"epochs must be an integer of at least 1, got {self.epochs!r}")
        parameters, options = self.model_.named_parameters(), {"weight_decay": self.weight_decay}
        optimizer = build_cosine_optimizer(self.optimizer, parameters, self.lr, self.epochs * batches, **options)
        weight = None
        if self.class_weight is not None:
            weight = compute_class_weight(self.class_weight, classes=self.classes_, y=targets)
            if not (weight > 0).all():
                raise ValueError(f"expected positive weights of classes, got {self.class_weight!r}")
        return Trainer(self.model_, optimizer, CrossEntropyLoss(weight), [Table()] if self.verbose else [])


def _rows(X: Any) -> tuple[Any, Shape | None]:
    """Return images as rows with their shape `(C, H, W)`; anything else as it is, with None, for `validate_data`."""
    if getattr(X, "ndim", 3) <= 2 or (images := np.asarray(X)).ndim <= 2:
        return X, None
    if images.ndim > 4:
        raise ValueError(f"expected images (N, C, H, W) or (N, H, W), or rows (N, features), got {images.shape}")
    C, H, W = shape = _channels_first(images.shape[1:])
    return images.reshape(len(images), C * H * W), shape


def _channels_first(sizes: Sequence[int]) -> Shape:
    """Return `(C, H, W)` or `(H, W)` as `(C, H, W)`."""
    C, H, W = (1, *sizes)[-3:]
    return C, H, W


def _images(rows: NDArray[Any], shape: Shape) -> NDArray[Any]:
    """Return rows as images; in tables integers of 8 bits are numbers like others, not pixels."""
    return rows.reshape(len(rows), *shape).astype(np.float32 if _is_table(shape) else rows.dtype, copy=False)


def _is_table(shape: Shape) -> bool:
    return shape[1:] == (1, 1)


def _usual(shape: Shape) -> str:
    """Return the name of the network that `"auto"` stands for."""
    smallest = min(shape[1:])
    return "lenet5" if smallest >= 12 else "small_cnn" if smallest >= 2 else "mlp"


def _in_blocks(model: Module, images: NDArray[Any], spec: DataSpec) -> NDArray[Any]:
    """Return the probabilities of images, computed in whole blocks; the last one is filled with repeated images."""
    whole = len(images) - len(images) % _BLOCK
    probabilities = predict(model, images[:whole], spec)
    if whole == len(images):
        return probabilities
    last = np.resize(images[whole:], (_BLOCK, *images.shape[1:]))
    return np.concatenate([probabilities, predict(model, last, spec)[: len(images) - whole]])
