# Compiler flags, linker and ccache, the same for every target of the project.
# SPDX-License-Identifier: Apache-2.0
find_program(LOCKSTEP_CCACHE ccache)
if(LOCKSTEP_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # A precompiled header is only cacheable with these sloppiness settings (ccache manual,
  # "Precompiled headers"). Paths below the checkout count as relative, so that one clone's objects
  # serve another. Depend mode spares the second run of the preprocessor that a miss costs
  # otherwise.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env
      CCACHE_BASEDIR=${PROJECT_SOURCE_DIR} CCACHE_NOHASHDIR=1 CCACHE_DEPEND=1
      CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
      ${LOCKSTEP_CCACHE})
  add_compile_options(-fpch-preprocess)
endif()
find_program(LOCKSTEP_MOLD mold)
if(LOCKSTEP_MOLD)
  # Segments on pages of their own: mold 1.10 begins GNU_RELRO at a .tbss that may end a page which
  # is not mapped, and then the program does not start.
  add_link_options(-fuse-ld=mold -Wl,-z,separate-loadable-segments)
endif()

# A product and a sum round twice unless the source says fused: bits that the compiler chose would
# differ between targets, compilers and the places where a formula stands.
add_compile_options(-ffp-contract=off)
# Designated initialisers leave fields at their defaults on purpose: no
# -Wmissing-field-initializers.
add_compile_options(-Wall -Wextra -Wshadow -Winvalid-pch -Wno-missing-field-initializers)
if(LOCKSTEP_WERROR)
  add_compile_options(-Werror)
endif()
if(LOCKSTEP_SANITIZE)
  add_compile_options(-fsanitize=${LOCKSTEP_SANITIZE} -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${LOCKSTEP_SANITIZE})
endif()
# libtorch's own symbols stay visible to the loader; unused sections of our static libraries go.
add_compile_options(-ffunction-sections -fdata-sections)
add_link_options(-Wl,--gc-sections)
