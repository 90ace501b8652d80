"""Complete configurations, one function each. For a variant, override fields:
`dwszoo run digits --set zoo.views=4`."""

from collections.abc import Callable

from flows.recipe import Recipe
from flows.recipes.adaptation import cifar_adapt, cifar_binary, digits_adapt
from flows.recipes.classification import (
    digits,
    dws_fashion,
    dws_mnist,
    images,
    shapes,
    smoke,
    waves,
)
from flows.recipes.editing import digits_dilate, mnist_dilate
from flows.recipes.pretraining import digits_pretrain, dws_waves, waves_embedding
from flows.recipes.regression import dws_sines, mlps, mnist_cnns, sines_frequency

RECIPES: dict[str, Callable[[], Recipe]] = {
    recipe.__name__.replace("_", "-"): recipe
    for recipe in (
        digits,
        images,
        dws_mnist,
        dws_fashion,
        digits_dilate,
        mnist_dilate,
        waves,
        shapes,
        sines_frequency,
        dws_sines,
        mlps,
        mnist_cnns,
        cifar_binary,
        digits_adapt,
        cifar_adapt,
        waves_embedding,
        dws_waves,
        digits_pretrain,
        smoke,
    )
}
