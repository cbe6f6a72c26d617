"""Small synthetic data sets."""

import pytest
from support_phantoms import FEW

from medssl_monai.phantoms import make_phantom


@pytest.fixture(scope="session")
def spine(tmp_path_factory):
    return make_phantom(tmp_path_factory.mktemp("spine"), "spine6", FEW)


@pytest.fixture(scope="session")
def chest(tmp_path_factory):
    return make_phantom(tmp_path_factory.mktemp("chest"), "chest", FEW)


@pytest.fixture(scope="session")
def findings(tmp_path_factory):
    return make_phantom(tmp_path_factory.mktemp("findings"), "chest14", FEW)


@pytest.fixture(scope="session")
def skin(tmp_path_factory):
    return make_phantom(tmp_path_factory.mktemp("skin"), "lesion7", FEW)
