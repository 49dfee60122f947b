# Puts style sheet and scripts into page.html and writes the whole as a C++ file.
# SPDX-License-Identifier: Apache-2.0
#
#   cmake -DOUTPUT=page_template.cpp -DHTML=page.html -DSTYLE=style.css -DSCRIPTS=a.js,b.js
#         -P embed_page.cmake
file(READ ${HTML} page)
file(READ ${STYLE} style)
string(REPLACE "," ";" parts "${SCRIPTS}")
set(script "")
foreach(part ${parts})
  file(READ ${part} text)
  string(APPEND script "${text}\n")
endforeach()
# One scope: the parts see each other, and nothing else sees them.
set(script "(() => {\n'use strict';\n${script}})();\n")
foreach(mark style script)
  string(FIND "${page}" "{{${mark}}}" at)
  if(at LESS 0)
    message(FATAL_ERROR "${HTML}: expected {{${mark}}}, got none")
  endif()
  string(REPLACE "{{${mark}}}" "${${mark}}" page "${page}")
endforeach()
file(WRITE ${OUTPUT}.html "${page}")
file(READ ${OUTPUT}.html bytes HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
file(WRITE ${OUTPUT} "// Made by embed_page.cmake from src/report/page.
#include \"report/page_template.h\"
namespace lockstep::report {
namespace {
const unsigned char kPage[] = {${bytes}};
}
std::string_view page_template() {
  return {reinterpret_cast<const char*>(kPage), sizeof(kPage)};
}
}
")
