# lockstep_library, lockstep_test and lockstep_benchmark: one static library a folder, one test
# program a library.
# SPDX-License-Identifier: Apache-2.0

# Two precompiled headers: cmake/pch_torch.h (with tensor/aten.h) for targets that use libtorch,
# cmake/pch_plain.h for the others.
function(_lockstep_use_pch target torch)
  if(NOT LOCKSTEP_PCH)
    return()
  endif()
  if(torch)
    target_precompile_headers(${target} REUSE_FROM lockstep_pch_torch)
  else()
    target_precompile_headers(${target} REUSE_FROM lockstep_pch_plain)
  endif()
endfunction()

function(lockstep_add_pch_targets)
  foreach(kind plain torch)
    add_library(lockstep_pch_${kind} OBJECT ${PROJECT_SOURCE_DIR}/cmake/pch_${kind}.cpp)
    target_include_directories(lockstep_pch_${kind} PRIVATE
      ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/cmake)
    target_link_libraries(lockstep_pch_${kind} PRIVATE fmt::fmt nlohmann_json::nlohmann_json)
  endforeach()
  target_link_libraries(lockstep_pch_torch PRIVATE LibTorch::core)
  if(LOCKSTEP_PCH)
    # Named without their folder: a path in the header that CMake writes would part the objects of
    # two checkouts in ccache.
    target_precompile_headers(lockstep_pch_plain PRIVATE <pch_plain.h>)
    target_precompile_headers(lockstep_pch_torch PRIVATE <pch_torch.h>)
  endif()
endfunction()

# lockstep_library(NAME io [TORCH] SRCS a.cpp … [KERNELS k.cpp …] DEPS lockstep::base …)
# KERNELS are Highway files: torch-free, compiled for several processors, without the precompiled
# header.
function(lockstep_library)
  cmake_parse_arguments(ARG "TORCH" "NAME" "SRCS;KERNELS;DEPS" ${ARGN})
  set(target lockstep_${ARG_NAME})
  add_library(${target} STATIC ${ARG_SRCS} ${ARG_KERNELS})
  add_library(lockstep::${ARG_NAME} ALIAS ${target})
  target_include_directories(${target} PUBLIC ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(${target} PUBLIC ${ARG_DEPS} fmt::fmt nlohmann_json::nlohmann_json)
  if(ARG_TORCH)
    target_link_libraries(${target} PUBLIC LibTorch::core)
  endif()
  if(ARG_KERNELS)
    set_source_files_properties(${ARG_KERNELS} PROPERTIES SKIP_PRECOMPILE_HEADERS ON)
    # -O3 here in every preset: a kernel without optimisation is no kernel. With a sanitizer's
    # checks it takes a compiler minutes for one file.
    if(NOT LOCKSTEP_SANITIZE)
      set_property(SOURCE ${ARG_KERNELS} APPEND PROPERTY COMPILE_OPTIONS -O3)
    endif()
    # Vectors of x86 begin with AVX2; a processor without it takes the scalar code. Each target is a
    # compilation of its own.
    target_compile_definitions(${target} PUBLIC "HWY_DISABLED_TARGETS=(HWY_SSSE3|HWY_SSE4)")
    target_link_libraries(${target} PUBLIC PkgConfig::HWY)
  endif()
  _lockstep_use_pch(${target} "${ARG_TORCH}")
endfunction()

# lockstep_test(NAME text [TORCH] [MAIN main.cpp] LABEL unit SRCS a_test.cpp … DEPS lockstep::…)
# MAIN: a main function of its own, in place of tests/support's.
function(lockstep_test)
  cmake_parse_arguments(ARG "TORCH" "NAME;LABEL;TIMEOUT;MAIN" "SRCS;DEPS" ${ARGN})
  if(NOT ARG_MAIN)
    set(ARG_MAIN ${PROJECT_SOURCE_DIR}/tests/support/main.cpp)
    if(ARG_TORCH)
      set(ARG_MAIN ${PROJECT_SOURCE_DIR}/tests/support/main_torch.cpp)
    endif()
  endif()
  set(target lockstep_${ARG_NAME}_test)
  add_executable(${target} ${ARG_SRCS} ${ARG_MAIN})
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR})
  # Tests run for seconds and compile for minutes.
  target_compile_options(${target} PRIVATE -O1)
  target_link_libraries(${target} PRIVATE ${ARG_DEPS} lockstep_run_tests)
  if(ARG_TORCH)
    target_link_libraries(${target} PRIVATE LibTorch::core)
  endif()
  _lockstep_use_pch(${target} "${ARG_TORCH}")
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  add_test(NAME ${ARG_NAME} COMMAND ${target} --gtest_brief=1)
  # What the thread sanitizer can look at: libtorch is not built for it.
  if(NOT ARG_TORCH AND ARG_LABEL STREQUAL "unit")
    list(APPEND ARG_LABEL torch_free)
    if(NOT TARGET torch_free_tests)
      add_custom_target(torch_free_tests)
    endif()
    add_dependencies(torch_free_tests ${target})
  endif()
  set_tests_properties(${ARG_NAME} PROPERTIES LABELS "${ARG_LABEL}" TIMEOUT ${ARG_TIMEOUT})
endfunction()
