"""Training a head on the feature bank against fitting the same frozen network: `--help` tells the rest."""

import time
from typing import TYPE_CHECKING, Annotated

import typer
from _common import (
    SPLIT_80_20,
    Data,
    Model,
    Workspace,
    describe_machine,
    make_table,
    read_frozen_entry,
    report,
    score_test,
    start,
    use_data,
    use_model,
    workspace,
)

from metal_defects.data.snapshots import load_snapshot
from metal_defects.log import console
from metal_defects.metrics import format_accuracy
from metal_defects.models.networks import assemble, build_feature_model, build_head
from metal_defects.models.trainers import FrozenTrainer, make_trainer
from metal_defects.models.training import compile_classifier, predict_images
from metal_defects.pipeline.table import STAGES

if TYPE_CHECKING:
    import keras


def main(
    data: Data,
    model: Model = "efficientnet_lite0",
    epochs: Annotated[int, typer.Option("--epochs", min=1)] = 10,
) -> None:
    """Time the head's training from the feature bank against Keras' fit of the whole frozen network.

    Both train the same head on the same images (80 % of each class, unaugmented), for the same epochs, with the same
    settings and callbacks, validate after every epoch, and are tested on the same 20 %. The usual way reads the
    tf.data snapshot from memory and gets the head's standardisation for nothing. Filling the bank is timed apart: it
    is paid once, and then serves every head, every tuning trial and every fold.

    About six minutes on two cores, nearly all of it the usual way.

    Example: python benchmarks/head_speed.py --data ~/NEU-DET
    """
    machine = describe_machine()
    overrides = (
        SPLIT_80_20,
        "training.views=0",
        "training.fine_tune=false",
        f"training.epochs={epochs}",
        f"callbacks.early_stopping.patience={epochs}",
    )
    with workspace(STAGES[:4], use_data(data), *use_model(model), *overrides) as place:
        entry = read_frozen_entry(place)
        begin = time.perf_counter()
        trainer = make_trainer(entry, place.training)
        engine = trainer.method.engine  # known once the bank is filled
        bank_seconds = time.perf_counter() - begin
        begin = time.perf_counter()
        fitted = trainer.fit({}, place.make_callbacks, place.scratch / "bank", "head on the bank")
        head_seconds = time.perf_counter() - begin
        from_bank = score_test(place, fitted.predict("test"))
        console.print("The bank is done; now the usual way ...", style="dim")
        network = build_plain_network(trainer)
        begin = time.perf_counter()
        _fit_plainly(place, trainer, network)
        plain_seconds = time.perf_counter() - begin
        plain = score_test(place, predict_images(network, load_snapshot(place.snapshots, "test")))
    ratio = plain_seconds / head_seconds
    table = make_table(f"{entry.title}, {epochs} epochs of the head", "way", "seconds", "test accuracy (95 %)")
    table.add_row("fit the frozen network", f"{plain_seconds:.1f}", format_accuracy(plain))
    table.add_row("fit the head on the bank", f"{head_seconds:.1f}", format_accuracy(from_bank))
    with_bank = plain_seconds / (head_seconds + bank_seconds)
    notes = [
        f"From the bank it is {ratio:.0f} times faster.",
        f"Filling the bank took {bank_seconds:.1f} s ({engine}), once; "
        f"counted in full against this one head, the ratio is {with_bank:.1f}.",
    ]
    result = {
        "model": entry.name,
        "epochs": epochs,
        "engine": engine,
        "seconds": {
            "plain": round(plain_seconds, 2),
            "bank": round(head_seconds, 2),
            "filling": round(bank_seconds, 2),
        },
        "ratio": round(ratio, 1),
        "ratio_with_filling": round(with_bank, 2),
        "test": {"plain": plain.model_dump(mode="json"), "bank": from_bank.model_dump(mode="json")},
    }
    report("head_speed", [table], notes, machine, result)


def build_plain_network(trainer: FrozenTrainer) -> "keras.Model":
    """The frozen backbone under a fresh head, standardised as the head on the bank is."""
    import keras

    values = trainer.defaults()
    keras.utils.set_random_seed(trainer.training.seed)
    taps = trainer.backbone.choose_taps(values["taps"])
    features = trainer.bank.training(trainer.bank.columns(taps), views=0)
    head = build_head(
        features.mean(axis=0),
        features.var(axis=0),
        len(trainer.weights),
        hidden_units=values["hidden_units"],
        dropout=values["dropout"],
        l2=values["l2"],
    )
    return assemble(build_feature_model(trainer.backbone, trainer.network, taps), head, "plain")


def _fit_plainly(place: Workspace, trainer: FrozenTrainer, network: "keras.Model") -> None:
    """What most programs do: Keras' fit on the images, the backbone's layers frozen."""
    import tensorflow as tf

    values, folder = trainer.defaults(), place.scratch / "plain"
    classes = len(trainer.weights)
    weights = tf.constant(trainer.weights)

    def prepare(image: "tf.Tensor", label: "tf.Tensor") -> "tuple[tf.Tensor, tf.Tensor, tf.Tensor]":
        return image, tf.one_hot(label, classes), tf.gather(weights, label)

    train, valid = (load_snapshot(place.snapshots, split).map(prepare).cache() for split in ("train", "valid"))
    shuffled = train.shuffle(int(train.cardinality()), seed=trainer.training.seed)
    compile_classifier(network, values["learning_rate"], values["label_smoothing"])
    network.fit(
        shuffled.batch(values["batch_size"]).prefetch(tf.data.AUTOTUNE),
        validation_data=valid.batch(values["batch_size"]),
        epochs=values["epochs"],
        callbacks=place.make_callbacks(folder, values["epochs"], values["learning_rate"]),
        verbose=0,
    )


if __name__ == "__main__":
    start(main)
