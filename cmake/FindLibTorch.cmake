# Finds libtorch inside an installed torch wheel and makes LibTorch::core.
# SPDX-License-Identifier: Apache-2.0
#
# The wheel's own TorchConfig.cmake insists on the CUDA toolkit and adds global flags; this takes
# the headers and the two or four libraries that are linked, and nothing else. Set
# LOCKSTEP_TORCH_DIR to the folder `torch` of an installed wheel; unset, tools/setup.sh's own copy
# is used.
set(LOCKSTEP_TORCH_DIR "$ENV{LOCKSTEP_TORCH_DIR}" CACHE PATH
    "Folder `torch` of an installed torch wheel (2.11 or later)")
if(NOT LOCKSTEP_TORCH_DIR)
  set(LOCKSTEP_TORCH_DIR ${PROJECT_SOURCE_DIR}/.deps/libtorch/torch CACHE PATH "" FORCE)
endif()
if(NOT EXISTS ${LOCKSTEP_TORCH_DIR}/include/ATen/core/Tensor.h)
  message(FATAL_ERROR "LibTorch: expected a torch wheel in ${LOCKSTEP_TORCH_DIR}, found no headers "
                      "there (run tools/setup.sh, or set LOCKSTEP_TORCH_DIR)")
endif()
file(STRINGS ${LOCKSTEP_TORCH_DIR}/version.py _version_line REGEX "^__version__")
string(REGEX MATCH "[0-9]+\\.[0-9]+(\\.[0-9]+)?" LibTorch_VERSION "${_version_line}")
if(LibTorch_VERSION VERSION_LESS 2.11)
  message(FATAL_ERROR "LibTorch: expected version 2.11 or later in ${LOCKSTEP_TORCH_DIR}, "
                      "found ${LibTorch_VERSION}")
endif()

set(_lib ${LOCKSTEP_TORCH_DIR}/lib)
set(_libraries ${_lib}/libtorch_cpu.so ${_lib}/libc10.so)
if(LOCKSTEP_CUDA)
  list(APPEND _libraries ${_lib}/libtorch_cuda.so ${_lib}/libc10_cuda.so)
endif()
if(NOT TARGET LibTorch::core)
  add_library(LibTorch::core INTERFACE IMPORTED)
  # The wheel carries fmt headers of its own, of another version than the system's library, which we
  # link: a folder in front of them has the system's. (Header-only, the wheel's would be compiled
  # into every file: 4 s each.)
  find_package(fmt REQUIRED)
  get_target_property(_fmt_include fmt::fmt INTERFACE_INCLUDE_DIRECTORIES)
  file(MAKE_DIRECTORY ${PROJECT_BINARY_DIR}/include)
  file(CREATE_LINK ${_fmt_include}/fmt ${PROJECT_BINARY_DIR}/include/fmt SYMBOLIC)
  # lean_torch: empty ATen/Context.h and ATen/DeviceGuard.h, which each header of an operator
  # includes and only wide headers use. A file that needs them defines LOCKSTEP_WIDE_TORCH; the
  # others compile in three quarters of the time.
  target_include_directories(LibTorch::core SYSTEM INTERFACE
    ${PROJECT_SOURCE_DIR}/cmake/lean_torch ${PROJECT_BINARY_DIR}/include
    ${LOCKSTEP_TORCH_DIR}/include ${LOCKSTEP_TORCH_DIR}/include/torch/csrc/api/include)
  # With both macros the wide headers (torch/torch.h, ATen/ATen.h) are compile errors: they cost 7
  # to 15 s a file.
  target_compile_definitions(LibTorch::core INTERFACE
    AT_PER_OPERATOR_HEADERS TORCH_ASSERT_ONLY_METHOD_OPERATORS)
  target_compile_options(LibTorch::core INTERFACE -fopenmp)
  # Operators register when the library loads, so it is linked even where no symbol is named.
  target_link_libraries(LibTorch::core INTERFACE
    -Wl,--no-as-needed ${_libraries} -Wl,--as-needed -L${_lib} -lgomp)
  target_link_options(LibTorch::core INTERFACE -Wl,-rpath,${_lib})
endif()
message(STATUS "LibTorch ${LibTorch_VERSION}: ${LOCKSTEP_TORCH_DIR}")
