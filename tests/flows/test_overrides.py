import pytest

from flows.overrides import resolve_recipe
from flows.recipe import Recipe
from flows.recipes import RECIPES
from pipeline.config import describe
from pipeline.errors import InputError

pytestmark = pytest.mark.fast


def test_a_setting_replaces_one_field():
    recipe = resolve_recipe(
        "digits",
        ["zoo.views=3", "zoo.inr.hidden=[5, 4]", "zoo.inr.init=siren", "zoo.fit.target_psnr=null"],
    )
    assert (recipe.zoo.views, recipe.zoo.inr.hidden, recipe.zoo.inr.init) == (3, (5, 4), "siren")
    assert recipe.zoo.fit.target_psnr is None
    assert recipe.training == RECIPES["digits"]().training


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        (
            "digit",
            "zoo.views=3",
            r"there is no recipe 'digit': expected one of digits, .*; did you mean 'digits'\?",
        ),
        (
            "digits",
            "zoo.view=3",
            r"there is no field 'zoo\.view': the fields of 'zoo' are kind, seed, signals, .*; "
            r"did you mean 'zoo\.views'\?",
        ),
        (
            "digits",
            "views=3",
            r"there is no field 'views': the fields are zoo, training, probe, growth, resources; "
            r"did you mean 'zoo\.views'\?",
        ),
        ("digits", "zoo.views.x=3", r"'zoo\.views' is a single value, not a group"),
        (
            "digits",
            "zoo.fit=3",
            r"'zoo\.fit' is a group of fields, set one of them: zoo\.fit\.learning_rate",
        ),
        ("digits", "zoo.views=0", r"zoo\.views: input should be greater than 0, got 0"),
        (
            "digits",
            "zoo.views=many",
            r"zoo\.views: input should be a valid integer, .* got \"many\"",
        ),
        (
            "digits",
            "zoo.inr.init=sirne",
            r"zoo\.inr\.init: input should be 'dws' or 'siren', got \"sirne\"",
        ),
        (
            "digits",
            "zoo.signals.source=digit",
            r"zoo\.signals\.source: input should be one of digits, .*, occupancy or "
            r"package\.module:function, got \"digit\"",
        ),
        ("digits", "zoo.views=true", r"zoo\.views: input should be a number, got true"),
        (
            "digits",
            "zoo.inr.hidden=[8, true]",
            r"zoo\.inr\.hidden: input should be a number, got \[8",
        ),
        ("digits", "zoo.views", r"--set takes key=value, got 'zoo\.views'"),
    ],
)
def test_a_mistake_names_the_field_what_was_given_and_what_is_allowed(name, setting, message):
    with pytest.raises(InputError, match=message):
        resolve_recipe(name, [setting])


@pytest.mark.parametrize("name", RECIPES)
def test_every_field_of_every_recipe_has_a_meaning(name):
    fields = list(describe(RECIPES[name]()))
    assert len(fields) > 25
    assert all(meaning for _, _, meaning in fields)
    assert RECIPES[name].__doc__


def test_identity_changes_the_fingerprint_and_location_does_not():
    same = resolve_recipe("digits", ["resources.workers=7", "zoo.signals.path=/elsewhere"])
    other = resolve_recipe("digits", ["zoo.seed=1"])
    assert same.fingerprint() == Recipe.fingerprint(RECIPES["digits"]()) != other.fingerprint()


def test_resources_have_options_of_their_own():
    from flows.cli import parser

    options = parser().parse_args(
        ["run", "smoke", "--workers", "3", "--set", "zoo.views=4", "--num-gpus", "0.5"]
    )
    recipe = resolve_recipe(options.recipe, options.settings)
    assert (recipe.resources.workers, recipe.resources.gpus_per_worker, recipe.zoo.views) == (
        3,
        0.5,
        4,
    )
    options = parser().parse_args(
        ["train", "smoke", "--zoo", "zoo", "--out", "run", "--workers", "none"]
    )
    with pytest.raises(InputError, match=r'resources.workers: .*integer.* got "none"'):
        resolve_recipe(options.recipe, options.settings)


def test_workers_may_be_a_range():
    resources = resolve_recipe("digits", ["resources.workers=1:8"]).resources
    assert (resources.fewest, resources.workers) == (1, 8)
    with pytest.raises(InputError, match="min_workers should be at most workers, 2"):
        resolve_recipe("digits", ["resources.workers=5:2"])
