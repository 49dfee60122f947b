#!/usr/bin/env python3
"""Renders small templates through transformers' Jinja environment, for tests/text/jinja/test.cpp.

Writes tests/data/chat_templates/snippets.jsonl: {"source", "text"} or {"source", "error"} with the
exception's class. All see the variables of the first line. transformers 5.23, jinja2 3.1.6.

SPDX-License-Identifier: Apache-2.0
"""

import json
import pathlib

from transformers.utils import chat_template_utils

DATA = pathlib.Path(__file__).parents[2] / "tests" / "data" / "chat_templates"

VARIABLES = {
    "s": "Hello, Wörld",
    "spaced": " \t\n x y \u3000\n",
    "lines": "one\ntwo\r\nthree\n\nfive\n",
    "csv": "a,b,,c",
    "empty": "",
    "html": "<b>&'\"</b>",
    "emoji": "a🙂é日",
    "n": 7,
    "zero": 0,
    "neg": -7,
    "f": 2.5,
    "big": 18446744073709551615,
    "t": True,
    "no": False,
    "none_value": None,
    "xs": [3, 1, 2],
    "words": ["b", "A", "c", "a"],
    "mixed": [1, "x", None, True, 2.0, [1], {"k": "v"}],
    "d": {"b": 1, "a": 2, "C": 3, "items": "shadow", "n": None},
    "nested": {"list": [{"name": "x", "v": 1}, {"name": "y", "v": None}, {"name": "z"}],
               "deep": {"a": {"b": [10, 20]}}},
    "people": [{"name": "Ann", "age": 30, "tags": ["a"]}, {"name": "bob", "age": 25, "tags": []},
               {"name": "Cy", "age": 30}],
}


def expressions():
    """Expressions, each printed by a template of its own."""
    # Literals and text of values.
    yield from ["1", "1.0", "-3", "+3", "1e3", "1.5e-7", "1e16", "123456789012345680.0", "1_000",
                "0.1+0.2", "2**10", "2**-1"]
    yield from ["'a' 'b'", '"\\n\\t\\\\\\"x"', "'\\u00e9\\x41\\101\\q'", "true", "True", "none",
                "None", "false"]
    yield from ["[]", "[1, 'a', none, true, 1.0]", "()", "(1,)", "(1, 2)", "1, 2", "{}",
                "{'a': 1, 2: [3], none: (1,)}", "{'a': 1, 'a': 2}"]
    yield from ["mixed", "d", "nested", "s", "emoji", "[s]",
                "['it\\'s', '\"', 'a\\'b\"c', '\\n\\t\\\\\\x07\\u200b\\u00a0é🙂']", "html",
                "[html|safe]"]
    yield from ["1.0 * 3", "7 / 2", "6 / 2", "7 // 2", "neg // 2", "7 // -2", "7.5 // 2", "neg % 3",
                "7 % -3", "-7.5 % 2", "7.0", "big", "big + 1"]
    yield from ["1 / 0", "1 // 0", "1 % 0", "1.0 / 0", "2 ** 0.5", "f", "f * 2", "t + t", "-t",
                "+t", "1e308 * 10", "-1e308 * 10", "none + 1", "'a' + 1"]
    yield from ["'a' + 'b'", "'ab' * 3", "3 * 'ab'", "'a' * -1", "[1] + [2]", "[1] * 2",
                "(1,) + (2,)", "[1] + (2,)", "'a' - 'b'", "-'a'", "undefined + 1"]
    yield from ["'a' ~ 1 ~ none ~ true ~ 2.0 ~ [1]", "1 ~ 2 + 3", "1 + 2 ~ 3", "s ~ undef",
                "undef ~ undef", "'x' ~ html|safe", "html|safe ~ '<'"]
    # Markup.
    yield from ["html|safe + '<i>'", "'<i>' + html|safe", "(html|safe)[1:3] + '<'",
                "html|safe|upper + '<'", "html|e", "html|escape|safe + '&'", "html|string"]
    yield from ["(html|safe).strip('<') + '<'", "(html|safe).replace('b', '<')",
                "(html|safe).split('b')[0] + '<'", "'<'.join([html|safe])", "html|safe|tojson"]
    yield from ["html|safe|trim + '<'", "html|safe|replace('b', '<') + '<'",
                "[html|safe]|join('<') + '<'", "html|safe is string", "html|safe == html",
                "'<' in html|safe"]
    yield from ["('%s'|safe) % html", "'%s' % (html|safe)", "(html|safe) * 2 + '<'",
                "html|safe|indent + '<'", "html|safe is escaped", "html is escaped"]
    # Comparisons and logic.
    yield from ["1 == 1.0", "1 == true", "'a' == 'a'", "none == none", "undef == undef",
                "undef == none", "[1, 2] == [1, 2]", "[1] == (1,)",
                "{'a': 1, 'b': 2} == {'b': 2, 'a': 1}"]
    yield from ["1 < 2 < 3", "1 < 3 < 2", "1 != 2", "'a' < 'b'", "'B' < 'a'", "[1, 2] < [1, 3]",
                "[1] < [1, 0]", "1 < 'a'", "none < 1", "undef < 1", "(1,) < (2,)", "2.5 >= 2",
                "1 < 2 == true"]
    yield from ["'ell' in s", "'z' not in s", "2 in xs", "none in mixed", "'a' in d", "1 in d",
                "undef in xs", "1 in undef", "1 in 5", "1 in 'abc'", "undef in 'abc'",
                "[1] in mixed", "[1] in d", "1 in (1, 2)"]
    yield from ["1 and 0", "0 or 'x'", "'' or none", "not 1", "not ''", "not not 1", "1 and 2 or 3",
                "undef or 1", "not undef", "none and 1/0", "1 or 1/0", "[] and 1", "{} or 0.0"]
    yield from ["1 if true else 2", "1 if false else 2", "1 if false", "(1 if false) is defined",
                "'a' if 0 else 'b' if 0 else 'c'", "1 if 2 if 0 else 3"]
    # Precedence.
    yield from ["1 + 2 * 3", "(1 + 2) * 3", "-2 ** 2", "2 ** 3 ** 2", "-1|abs", "(-1)|abs",
                "-xs|length", "not 1 == 2", "1 + 1|string", "'a' ~ 1 + 1", "'a' in 'ab' and 1",
                "not 'a' in 'ab'", "1 is odd and 2 is even"]
    yield from ["1 is odd is true", "xs|length > 2", "xs|length is odd", "s|upper|lower|length",
                "xs[0] + xs[-1]", "2 * 3 % 4", "10 - 3 - 2", "2 / 2 * 3"]
    # Access.
    yield from ["d.a", "d['a']", "d.missing", "d['missing']", "d.items is callable", "d['items']",
                "d.items()|list", "d.keys()|list", "d.values()|list", "d.get('a')", "d.get('q')",
                "d.get('q', 5)", "d.n", "d.get('n', 5)"]
    yield from ["nested.list[0].name", "nested.list.0.name", "nested['list'][-1]['name']",
                "nested.list[5]", "nested.list[5].name", "nested.deep.a.b[1]",
                "nested.missing.name", "undef.x", "undef['x']", "none_value.x", "none_value['x']",
                "n.x", "s.x", "s.x.y"]
    yield from ["s[0]", "s[-1]", "s[100]", "emoji[1]", "emoji[2]", "s['x']", "xs['x']", "xs[true]",
                "xs[1.0]", "d[1]", "d[[1]]", "xs[none_value]", "s.__class__", "s.__class__.x",
                "xs.append(1)", "d.update({})", "xs.append", "d.pop('a')", "xs.count(1)",
                "xs.index(2)", "(1, 2).index(2)", "xs.index(9)"]
    yield from ["xs[1:]", "xs[:-1]", "xs[::-1]", "xs[::2]", "xs[-2:]", "xs[5:]", "xs[2:0:-1]",
                "s[1:4]", "s[::-1]", "emoji[::-1]", "emoji[1:3]", "s[-3:]", "s[:100]",
                "(1, 2, 3)[1:]", "xs[none:none]", "xs[1:2:none]", "xs[::0]", "xs['a':]",
                "none_value[1:]", "d[1:]", "undef[1:]", "range(5)[1:3]|list"]
    # String methods.
    yield from ["s.upper()", "s.lower()", "s.title()", "s.capitalize()", "s.swapcase()",
                "'straße ǆ'.upper()", "'ÀÉ'.lower()", "'hELLO wORLD-foo it\\'s'.title()",
                "'hELLO wORLD-foo (x)'|title", "'élan'|capitalize", "''|capitalize"]
    yield from ["[spaced.strip()]", "[spaced.lstrip()]", "[spaced.rstrip()]", "'xxaxx'.strip('x')",
                "'xyaxy'.strip('yx')", "'xxaxx'.lstrip('x')", "'xxaxx'.rstrip('x')",
                "'éaé'.strip('é')", "s.strip(none)", "s.strip(1)", "[spaced|trim]",
                "'xxa'|trim('x')", "none_value|trim", "5|trim"]
    yield from ["csv.split(',')", "csv.split(',', 1)", "csv.rsplit(',', 1)", "' a  b '.split()",
                "' a  b c '.split(none, 1)", "' a  b c '.rsplit(none, 1)", "''.split()",
                "''.split(',')", "csv.split('')", "csv.split(sep=',', maxsplit=2)",
                "csv.split(',')[0]", "csv.split(',', -1)", "csv.split(',', 0)", "'a—b'.split('—')"]
    yield from ["lines.splitlines()", "lines.splitlines(true)",
                "'a\\x0bb\\x1cc\\u2028d'.splitlines()", "s.startswith('Hell')",
                "s.startswith(('x', 'H'))", "s.endswith('rld')", "s.endswith(())",
                "s.startswith('l', 2)", "s.startswith('')", "s.startswith(1)",
                "s.endswith('o', 0, 5)", "s.startswith('e', -11)"]
    yield from ["s.find('o')", "s.find('zz')", "emoji.find('日')", "s.rfind('l')", "s.index('l')",
                "s.index('zz')", "s.count('l')", "s.count('')", "s.find('l', 4)",
                "emoji.find('é', 1, 3)", "s.replace('l', 'L')", "s.replace('l', 'L', 1)",
                "'ab'.replace('', '-')", "'ab'.replace('', '-', 2)", "s.replace('x')"]
    yield from ["', '.join(words)", "', '.join(xs)", "''.join(s)", "'-'.join(d)",
                "csv.partition(',')", "csv.rpartition(',')", "csv.partition('zz')",
                "csv.rpartition('zz')", "'abc'.removeprefix('a')", "'abc'.removesuffix('bc')",
                "'abc'.removesuffix('x')"]
    yield from ["['a'.ljust(3)]", "['a'.rjust(3, '.')]", "['ab'.center(5, '*')]",
                "['ab'.center(7)]", "'42'.zfill(5)", "'-42'.zfill(5)", "'abc'.isalpha()",
                "'a1'.isalnum()", "'12'.isdigit()", "''.isdigit()", "' \\n'.isspace()",
                "'AB'.isupper()", "'ab1'.islower()", "'1'.islower()", "'Ab'.isupper()"]
    yield from ["'{} and {}'.format(1, 'x')", "'{0}{1}{0}'.format('a', 'b')",
                "'{a}{{}}'.format(a=none)", "'{}'.format()", "'%s is %d' % ('x', 3)",
                "'%5.2f|%-5s|%05d|%+d|%%' % (3.14159, 'ab', 42, 7)", "'%s' % xs", "'%s %s' % 'x'",
                "'%(a)s' % {'a': 5}", "'x' % ()", "'%r' % 'x'", "'%d' % 'x'",
                "'%e %g' % (12345.678, 0.0001)", "'%s'|format(5)", "'%(x)s'|format(x=1)"]
    # Filters.
    yield from ["xs|length", "s|length", "emoji|count", "d|length", "n|length", "none_value|length",
                "undef|length", "xs|first", "xs|last", "[]|first", "[]|last", "s|first", "d|first",
                "undef|first", "d.items()|first", "d|last"]
    yield from ["words|join(', ')", "words|join", "xs|join('-')", "mixed|join('|')",
                "people|join(', ', attribute='name')", "s|join('.')", "undef|join",
                "none_value|join", "s|list", "d|list", "undef|list", "n|list", "d|items|list",
                "undef|items|list", "xs|items|list"]
    yield from ["d|dictsort", "d|dictsort(true)", "{'b': 1, 'a': 2}|dictsort(by='value')",
                "{'b': 1, 'a': 2}|dictsort(reverse=true)", "d|dictsort(by='x')", "xs|sort",
                "xs|sort(reverse=true)", "words|sort", "words|sort(case_sensitive=true)",
                "people|sort(attribute='age')|map(attribute='name')|list",
                "people|sort(attribute='age,name', reverse=true)|map(attribute='name')|list",
                "mixed|sort", "xs|sort|first"]
    yield from ["['a', 'A', 'b', 'a']|unique|list", "['a', 'A']|unique(true)|list",
                "people|unique(attribute='age')|map(attribute='name')|join(',')", "xs|reverse|list",
                "s|reverse", "n|reverse", "xs|max", "xs|min", "words|max", "[]|max",
                "people|max(attribute='age')", "xs|sum", "people|sum(attribute='age')",
                "[1.5, 2]|sum", "words|sum", "[[1], [2]]|sum(start=[])"]
    yield from ["people|map(attribute='name')|list", "people|map(attribute='tags.0')|list",
                "people|map(attribute='tags', default='-')|list", "words|map('upper')|list",
                "words|map('replace', 'a', 'x')|join", "xs|map('string')|list",
                "undef|map('upper')|list", "none_value|map('upper')|list", "words|map|list",
                "words|map('nofilter')|list", "xs|map(attribute='x')|list"]
    yield from ["xs|select('odd')|list", "xs|reject('odd')|list",
                "xs|select('greaterthan', 1)|list", "[0, 1, '', 'a', none]|select|list",
                "[0, 1]|reject|list", "people|selectattr('age', 'equalto', "
                                      "30)|map(attribute='name')|list",
                                      "people|rejectattr('age', '==', "
                                      "30)|map(attribute='name')|list",
                                      "people|selectattr('tags')|map(attribute='name')|list",
                                      "people|selectattr('missing', 'undefined')|list|length",
                                      "people|rejectattr('tags', "
                                      "'defined')|map(attribute='name')|list"]
    yield from ["xs|select('odd')|length", "xs|map('string')|first", "xs|select('odd')|last",
                "(xs|select('none')) and 1", "xs|map('string')|tojson",
                "xs|map('string') is iterable", "xs|map('string') is sequence",
                "(xs|map('string'))[0]"]
    yield from ["d|tojson", "mixed|tojson", "html|tojson", "emoji|tojson",
                "emoji|tojson(ensure_ascii=true)", "d|tojson(indent=2)", "[]|tojson(indent=2)",
                "{}|tojson(indent=2)", "nested|tojson(indent=4)",
                "nested|tojson(separators=(',', ':'))",
                "{'b': 1, 'a': [1, 2]}|tojson(sort_keys=true)", "(1, 2)|tojson", "1e20|tojson",
                "1e-7|tojson", "undef|tojson", "xs|tojson(indent='--')",
                "'\\x00\\x1f\\x7f\\n\\u2028'|tojson", "{1: 2, none: 3, true: 4, 1.5: 5}|tojson",
                "(1e308 * 10)|tojson", "big|tojson", "-0.0", "xs|tojson(indent=0)",
                "xs|tojson(true)"]
    yield from ["undef|default('x')", "none_value|default('x')", "none_value|default('x', true)",
                "''|d('x', boolean=true)", "undef|default", "0|default(1, true)", "s|default(1/1)",
                "'42'|int", "'42.7'|int", "'x'|int", "'x'|int(5)", "'ff'|int(base=16)",
                "'0xff'|int(0, 16)", "f|int", "-2.7|int", "none_value|int", "undef|int",
                "' 7 '|int", "'1_0'|int", "true|int", "'1e3'|int"]
    yield from ["'2.5'|float", "'x'|float", "'x'|float(1.5)", "n|float", "'inf'|float",
                "' 1e3 '|float", "undef|float", "none_value|float", "neg|abs", "-2.5|abs", "s|abs",
                "2.5|round", "3.5|round", "2.567|round(2)", "2.1|round(0, 'ceil')",
                "2.9|round(method='floor')", "n|round", "2.5|round|int"]
    yield from ["s|upper", "s|lower", "n|upper", "none_value|string", "xs|string", "undef|string",
                "s|replace('l', 'L')", "s|replace('l', 'L', 1)", "n|replace(7, 8)", "lines|indent",
                "lines|indent(2, true)", "lines|indent('> ', blank=true)",
                "lines|indent(first=true)", "n|indent", "d|attr('a')", "d|attr('get')('a')",
                "s|attr('upper')()", "s|nofilter", "s|upper(1)"]
    # Tests.
    for value in ["undef", "none_value", "t", "n", "f", "s", "xs", "(1,)", "d", "d.items()",
                  "range(3)", "range", "xs|map('string')", "s.upper"]:
        kinds = ("defined", "none", "boolean", "integer", "float", "number", "string", "mapping",
                 "sequence", "iterable", "callable", "true", "false")
        yield "[" + ", ".join(f"{value} is {kind}" for kind in kinds) + "]"
    yield from ["3 is odd", "4 is even", "9 is divisibleby 3", "9 is divisibleby(2)", "s is odd",
                "1 is eq 1", "1 is sameas 1", "none is sameas none", "1 is sameas true",
                "2 is in xs", "2 is not in xs", "'upper' is filter", "'nofilter' is filter",
                "'odd' is test", "'ab' is lower", "'AB' is upper", "n is gt 5", "n is nosuchtest",
                "n is not none", "n is not defined", "1 is lt 2", "s is string and n is number",
                "undef is undefined"]
    # Functions.
    yield from ["range(3)|list", "range(1, 4)|list", "range(5, 0, -2)|list", "range(0)|list",
                "range(3) is sequence", "range(3)|length", "range(3)[1]", "range(100001)",
                "range(1, 2, 0)", "range('a')", "dict(a=1, b=2)", "dict([('a', 1)], b=2)",
                "dict({'a': 1})", "namespace(a=1).a", "namespace(a=1).b", "namespace({'a': 1}).a",
                "namespace(_a=1)", "raise_exception('no')", "strftime_now('') == ''",
                "strftime_now('%Y')|length", "s()", "undef()", "n.foo()", "s.upper(1)",
                "s.nomethod()", "[1, 2](0)", "range(*[1, 4])|list", "dict(**{'a': 1})"]


def statements():
    """Whole templates."""
    yield from ["", "\n", "x\n", "x\n\n", "a\r\nb\rc\n", "{{ '{{' }}", "{ {% if 1 %}{{% endif %} }",
                "{#- c -#} x", "a {# c #} b", "a\n{# c #}\nb", "a \n  {#- c -#}  \n b",
                "{% raw %}{{ x }}{% endraw %}", "a\n  {% raw -%}  \n{{ x }} {% endraw %}\nb",
                "{%- raw %} {% if %} {%- endraw -%}  y"]
    yield from ["  {% if true %}\n  x\n  {% endif %}\ny", "a {% if true %} x {% endif %} b",
                "a\n  {%- if true -%}\n  x\n  {%- endif -%}\n b",
                "a\n  {%+ if true +%}\n  x\n  {%+ endif %}\n b", "a\n  {{- 1 -}}\n b",
                "a\n  {{ 1 }}\n b", "\t {% set x = 1 %}\n{{ x }}",
                "{% set x = 1 %} {% set y = 2 %}\nz", "{{ 1 }}\n", "{{ 1 }}\n\n",
                "{{ 1 }} {% if 1 %}\n{% endif %}\n x"]
    yield from ["{% if 0 %}a{% elif 1 %}b{% else %}c{% endif %}",
                "{% if undef %}a{% else %}b{% endif %}", "{% if [] %}a{% endif %}",
                "{% if 1, 2 %}a{% endif %}", "{% if %}{% endif %}", "{% if 1 %}", "{% endif %}",
                "{% else %}", "{% nosuch %}", "{% if 1 %}{% endfor %}", "{{", "{{ 1", "{% if 1",
                "{# x", "{{ 1 + }}", "{{ (1 }}", "{{ [1) }}", "{{ 1 ? 2 }}", "{{ 'x }}",
                "{{ a b }}", "{{ x. }}", "{{ }}", "{% raw %}x"]
    yield from ["{% for x in xs %}{{ x }},{% endfor %}",
                "{% for x in [] %}a{% else %}none{% endfor %}",
                "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
                "{% for k, v in d|items %}{{ k }}={{ v }};{% endfor %}",
                "{% for k in d %}{{ k }}{% endfor %}", "{% for c in emoji %}[{{ c }}]{% endfor %}",
                "{% for x in undef %}{{ x }}{% else %}e{% endfor %}",
                "{% for x in none_value %}{% endfor %}", "{% for x in n %}{% endfor %}",
                "{% for a, b in xs %}{% endfor %}",
                "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
                "{% for x in 1, 2, 3 %}{{ x }}{% endfor %}"]
    loop = ("{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}"
            "{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}"
            "{{ loop.nextitem }}{{ loop.depth }};")
    yield from [f"{{% for x in xs %}}{loop}{{% endfor %}}",
                f"{{% for x in xs if x != 1 %}}{loop}{{% endfor %}}",
                f"{{% for x in xs|map('string') %}}{loop}{{% endfor %}}",
                "{% for x in xs %}{{ loop.cycle('a', 'b') }}{% endfor %}",
                "{% for x in [1, 1, 2] %}{{ loop.changed(x) }}{% endfor %}",
                "{% for x in xs %}{{ loop.nothing }}{% endfor %}",
                "{% for x in xs %}{{ loop['index'] }}{% endfor %}", "{{ loop }}",
                "{% for x in xs %}{% for y in xs %}{{ loop.index }}{% endfor %}{{ loop.index }}{% "
                "endfor %}", "{% for x in xs %}{{ loop.previtem is defined }}{{ loop.nextitem is "
                             "defined }}{% endfor %}"]
    yield from ["{% for x in xs if x > 5 %}a{% else %}none{% endfor %}",
                "{% for x in xs %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}",
                "{% for x in xs %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}",
                "{% for x in xs %}{% break %}{% else %}none{% endfor %}",
                "{% for x in xs %}{% continue %}{% else %}none{% endfor %}",
                "{% for x in xs %}{% if x == 1 %}{% break %}{% endif %}{% else %}none{% endfor %}",
                "{% break %}", "{% for x in xs %}{% for y in xs %}{% if y == 1 %}{% break %}{% "
                               "endif %}{{ y }}{% endfor %}{{ x }}{% endfor %}",
                               "{% for x in xs %}{% with %}{% if x == 1 %}{% break %}{% endif %}{% "
                               "endwith %}{{ x }}{% endfor %}"]
    yield from [
        "{% set ns = namespace(found=false) %}{% for x in xs if not ns.found %}{{ x }}{% if x == 1 "
        "%}{% set ns.found = true %}{% endif %}{% endfor %}",
        "{% set ns = namespace(k=0) %}{% for x in xs if not ns.k %}{{ x }}{{ loop.last }}{% set "
        "ns.k = 1 %}{% endfor %}"]
    yield from ["{% set x = 1 %}{% for y in xs %}{% set x = y %}{{ x }}{% endfor %}{{ x }}",
                "{% set x = 1 %}{% if 1 %}{% set x = 2 %}{% endif %}{{ x }}",
                "{% for y in xs %}{% if loop.first %}{% set z = y %}{% endif %}{{ z }};{% endfor "
                "%}{{ z }}", "{% set ns = namespace(x=1) %}{% for y in xs %}{% set ns.x = ns.x + y "
                             "%}{% endfor %}{{ ns.x }}", "{% set n.x = 1 %}",
                             "{% set nope.x = 1 %}",
                             "{% set ns = namespace() %}{% set ns._x = 1 %}",
                             "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set a, b = 1 %}",
                             "{% set a = 1, 2 %}{{ a }}", "{% set s = s ~ '!' %}{{ s }}",
                             "{% if 0 %}{% set s = 1 %}{% endif %}{{ s }}", "{% set true = 1 %}"]
    yield from ["{% set x %}a{{ 1 }}b{% endset %}[{{ x }}]",
                "{% set x | upper %}a{% set y = 1 %}b{% endset %}[{{ x }}{{ y }}]",
                "{% set ns = namespace() %}{% set ns.x %}t{% endset %}{{ ns.x }}",
                "{% filter upper %}a{{ s }}{% endfilter %}",
                "{% filter replace('a', 'b')|upper %}a{% endfilter %}",
                "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a }}",
                "{% with a = 1 %}{% set a = 2 %}{{ a }}{% endwith %}{{ a }}"]
    yield from [
        "{% macro m(a, b=2, c=a) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }}|{{ m(1, c=5) "
        "}}|{{ m(b=3, a=4) }}|{{ m() }}", "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}",
        "{% macro m(a) %}{% endmacro %}{{ m(b=2) }}",
        "{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, x=3) }}",
        "{% macro m(a) %}{{ a }}{{ varargs|length }}{% endmacro %}{{ m(1, 2, 3) }}",
        "{% macro m(x) %}{% if x > 0 %}{{ x }}{{ m(x - 1) }}{% endif %}{% endmacro %}{{ m(4) }}",
        "{{ m() }}{% macro m() %}x{% endmacro %}",
        "{% macro m() %}{{ y }}{% endmacro %}{% set y = 5 %}{{ m() }}",
        "{% for y in xs %}{{ m() }}{% endfor %}{% macro m() %}{{ y }}{% endmacro %}",
        "{% macro m() %}{{ y }}{% endmacro %}{% for y in xs %}{{ m() }}{% endfor %}",
        "{% macro m() %} a {% endmacro %}[{{ m()|trim }}]",
        "{% macro m(a, b) %}{{ b is defined }}{% endmacro %}{{ m(1) }}",
        "{% macro m() %}{{ html }}{% endmacro %}{{ m() ~ '<' }}{{ m() + '<' }}",
        "{% macro m(a=1, b) %}{% endmacro %}",
        "{% for x in xs %}{% macro m() %}{{ x }}{{ loop.index }}{% endmacro %}{{ m() }}"
        "{% endfor %}",
        "{% macro m() %}{% set q = 1 %}{% endmacro %}{{ m() }}{{ q }}",
        "{% macro m(s) %}{{ s }}{% endmacro %}{{ m() }}{{ m(none) }}",
        "{{ (m) }}{% macro m() %}{% endmacro %}"]
    yield from ["{% generation %}a{% set q = 1 %}{{ q }}{% endgeneration %}{{ q }}",
                "{% for x in xs %}{% generation %}{{ x }}{{ loop.index }}{% endgeneration %}{% "
                "endfor %}", "{%- generation -%}  a  {%- endgeneration -%}  b", "{% generation %}",
                "{% for x in xs %}{{ x }}{% endfor -%}  \n  y",
                "{%- for x in xs -%}  {{ x }}  {%- endfor -%}  y"]
    yield from ["{{ xs|map('upper') and 'yes' }}",
                "{{ 'a' if s is defined and s is string else 'b' }}", "{{ s if s is string if n }}",
                "{% set g = xs|map('string') %}{{ g|list }}{{ g|list }}",
                "{% set g = xs|map('string') %}{{ g|first }}{{ g|list }}",
                "{% if s is string %}a{% endif %}",
                "{{ people|selectattr('name', 'in', ['Ann', 'Cy'])|map(attribute='name')|join('+') "
                "}}", "{{ {'a': {'b': 1}}['a']['b'] }}", "{{{'a': 1}['a']}}",
                "{{ {'a': {'b': {}}} }}"]
    yield MISTRAL
    yield LLAMA


MISTRAL = """{%- if people[0]["name"] == "system" %}
    {%- set system_message = people[0]["name"] %}
    {%- set loop_messages = people[1:] %}
{%- else %}
    {%- set loop_messages = people %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("name", "equalto", "bob") | list %}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.name == "tool" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["name"] == "Ann") != (ns.index % 2 == 0) %}
            {{- raise_exception("After the optional system message, conversation roles must alternate") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- "<s>" }}
{%- for message in loop_messages %}
    {%- if message["name"] == "Ann" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["name"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["name"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["age"] == 25 %}
        {%- for key, val in message.items() if key != "tags" %}
            {%- if val is string %}
                {{- '"' + key + '": "' + val + '"' }}
            {%- else %}
                {{- '"' + key + '": ' + val|tojson }}
            {%- endif %}
            {%- if not loop.last %}
                {{- ", " }}
            {%- endif %}
        {%- endfor %}
        {{- " " + message["name"]|trim + "</s>"}}
    {%- else %}
        {{- message.get("name", "") ~ " " ~ message["tags"]|default("-")|string }}
    {%- endif %}
{%- endfor %}
"""

LLAMA = """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% set loop_messages = people %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['name'] + '<|end_header_id|>\\n\\n'+ message['name'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = '<|begin_of_text|>' + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}
"""


def render(source):
    try:
        return {"text": chat_template_utils._compile_jinja_template(source).render(**VARIABLES)}
    except Exception as error:
        return {"error": type(error).__name__}


def main():
    sources = ["{{ " + expression + " }}" for expression in expressions()] + list(statements())
    with (DATA / "snippets.jsonl").open("w", encoding="utf-8") as file:
        for row in [{"variables": VARIABLES},
                    *({"source": source, **render(source)} for source in sources)]:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(f"{len(sources)} snippets")


if __name__ == "__main__":
    main()
