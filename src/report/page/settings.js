// The settings of the runs, and what differs between them.
// SPDX-License-Identifier: Apache-2.0

/** The cell of a value; what is not set stands back. */
function settingOf(value) {
  const isUnset = ['', 'null', '[]', '{}', undefined].includes(value);
  return make('td', { class: isUnset ? 'unset' : null }, value ? value : '–');
}

const settings = { find: '', onlyOthers: null };

function showSettings() {
  const section = byId('settings'), { runs } = state;
  const names = [...new Set(runs.flatMap((run) => Object.keys(run.settings)))];
  const title = make('h2', {}, 'Settings');
  if (!names.length) {
    section.replaceChildren(title, make('div', { class: 'card empty' },
      make('strong', {}, 'No settings here'), 'There is no args.json beside the log.'));
    return;
  }
  const differs = (name) => runs.some((run) => run.settings[name] !== runs[0].settings[name]);
  settings.onlyOthers ??= runs.length > 1;
  const body = make('tbody');
  const fill = () => {
    const wanted = settings.find.trim().toLowerCase();
    body.replaceChildren(...names.filter((name) => {
      const text = [name, ...runs.map((run) => run.settings[name] ?? '')].join(' ');
      return text.toLowerCase().includes(wanted) && (!settings.onlyOthers || differs(name));
    }).map((name) => make('tr', { class: runs.length > 1 && differs(name) ? 'other' : null,
      'data-setting': name },
    make('th', { scope: 'row' }, name),
    ...runs.map((run) => settingOf(run.settings[name])))));
    if (!body.children.length) {
      body.append(make('tr', {}, make('td', { colspan: runs.length + 1 },
        settings.onlyOthers && !wanted ? 'The runs have the same settings.' : 'Nothing found.')));
    }
  };
  const box = make('input', { type: 'search', placeholder: 'Find a setting',
    'aria-label': 'Find a setting', oninput: (event) => {
      settings.find = event.target.value;
      fill();
    } });
  box.value = settings.find;
  const only = runs.length < 2 ? null : make('label', { class: 'check' },
    make('input', { type: 'checkbox', checked: settings.onlyOthers, onchange: (event) => {
      settings.onlyOthers = event.target.checked;
      fill();
    } }), 'only what differs');
  title.append(make('span', { class: 'find' }, only, box));
  const head = runs.length < 2 ? null : make('thead', {}, make('tr', {}, make('th', {}, ''),
    ...runs.map((run) => make('th', {}, run.name))));
  fill();
  section.replaceChildren(title, make('div', { class: 'card scroll' },
    make('table', { class: 'settings-table' }, head, body)));
}
