import os
import pathlib

import hypothesis
import jax
import jax.numpy as jnp
import jaxtyping
import pytest

jax.config.update("jax_enable_x64", True)

# Compiling is most of what the tests do. LLVM optimises nothing here, and its work is not split for more cores than a
# worker has. Until jax 0.11 XLA had another emitter of element-wise loops, which takes half the time; later releases
# do not know the flag, and would not start. Flags that the caller sets come after these, and win.
flags = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
if (0, 8) <= jax.__version_info__ < (0, 11):
    flags.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([*flags, os.environ.get("XLA_FLAGS", "")])

hypothesis.settings.register_profile("compiled", deadline=None)  # a first example compiles
hypothesis.settings.load_profile("compiled")

import gflow  # noqa: E402  (x64 first)


@pytest.fixture(scope="session")
def one_point():
    """The paper's regression: one data point in two dimensions."""
    return gflow.Regression(X=jnp.array([[1.0, 2.0]]), y=jnp.array([1.0]))


@pytest.fixture(scope="session")
def two_points():
    """The paper's classification: two separable points in two dimensions."""
    return gflow.Classification(X=jnp.array([[1.0, 2.0], [0.0, -3.0]]), y=jnp.array([1.0, -1.0]))


def pytest_configure(config):
    """Programs are kept between modules, workers and runs, as JAX_COMPILATION_CACHE_DIR would for a user."""
    if getattr(config, "cache", None) is not None:
        jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("xla")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


@pytest.fixture(autouse=True)
def _programs_fit_the_process():
    """Compiled verbs keep their programs, each in some mappings of memory, of which Linux allows a process 65,530 by
    default: beyond, XLA crashes. So they are dropped at half of that."""
    yield
    mappings = pathlib.Path("/proc/self/maps")
    if mappings.exists() and mappings.read_text().count("\n") > 32_000:
        jax.clear_caches()


@pytest.fixture
def unchecked_types():
    """No type checks at run time, as users have it: so that gflow's own errors are seen."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
