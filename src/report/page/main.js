// Puts the page together: header, summary, controls; and for a live page asks for what is new.
// SPDX-License-Identifier: Apache-2.0

/** [value, step] of the best value of a table; the greatest, or the least. */
function bestOf(table, name, isLeast) {
  const values = table.columns.get(name)?.mean;
  if (!values) return null;
  let best = -1;
  values.forEach((value, i) => {
    if (Number.isNaN(value)) return;
    if (best < 0 || (isLeast ? value < values[best] : value > values[best])) best = i;
  });
  return best < 0 ? null : [values[best], table.steps[best]];
}

const isOver = (run) => run.summary !== null && run.status.max_steps > 0
  && run.status.step >= run.status.max_steps;

function last(run, name) {
  const column = run.curves.columns.get(name);
  return column ? lastOf(column.mean) : NaN;
}

/** What the run is about: the metric of its tile. */
function goalOf(run) {
  const isReward = run.curves.columns.has('reward') || run.evaluations.columns.has('reward');
  return isReward ? { key: 'reward', name: 'Reward', isLeast: false }
    : { key: 'loss', name: 'Loss', isLeast: true };
}

/** The facts of the summary: [name, value, note, key] … */
function factsOf(run) {
  const goal = goalOf(run), { status, summary } = run, facts = [];
  const values = run.curves.columns.get(goal.key)?.mean;
  if (values) {
    const now = lastOf(values), before = firstOf(values), change = now - before;
    const isBetter = goal.isLeast ? change < 0 : change > 0;
    facts.push([isOver(run) ? `Final ${goal.name.toLowerCase()}` : goal.name, numberText(now),
      make('span', { class: isBetter ? 'up' : change ? 'down' : '' },
        `${change >= 0 ? '+' : '−'}${numberText(Math.abs(change))} since the start`), 'last']);
  }
  const evaluated = bestOf(run.evaluations, goal.key, goal.isLeast);
  const best = evaluated ?? bestOf(run.curves, goal.key, goal.isLeast);
  if (best) {
    facts.push([evaluated ? 'Best evaluation' : `Best ${goal.name.toLowerCase()}`,
      numberText(best[0]), `at step ${numberText(best[1])}`, 'best']);
  }
  const all = status.max_steps ? make('small', {}, ` / ${numberText(status.max_steps)}`) : '';
  const epoch = last(run, 'epoch');
  facts.push(['Steps', make('span', {}, numberText(status.step), all),
    Number.isNaN(epoch) ? '' : `epoch ${numberText(epoch)}`, 'steps']);
  const length = last(run, 'completions/mean_length');
  if (!Number.isNaN(length)) {
    const cut = last(run, 'completions/clipped_ratio');
    facts.push(['Length', make('span', {}, numberText(length), make('small', {}, ' tokens')),
      Number.isNaN(cut) ? '' : `${numberText(100 * cut)}% cut off`, 'length']);
  }
  const rate = last(run, 'tokens_per_second'), pace = last(run, 'step_time');
  const slow = Number.isNaN(pace) ? last(run, 'train_speed(s/it)') : pace;
  if (!Number.isNaN(rate)) {
    facts.push(['Speed', make('span', {}, numberText(rate), make('small', {}, ' tokens/s')),
      `${numberText(slow)} s a step`, 'speed']);
  } else if (!Number.isNaN(slow)) {
    facts.push(['Speed', make('span', {}, numberText(slow), make('small', {}, ' s a step')), '',
      'speed']);
  }
  const time = summary?.train_runtime ? durationText(summary.train_runtime) : status.elapsed_time;
  if (time) {
    const left = !isOver(run) && status.remaining_time ? `${status.remaining_time} left` : '';
    const memory = last(run, 'memory(GiB)');
    facts.push(['Time', time, left || (Number.isNaN(memory) ? '' : `${numberText(memory)} GiB`),
      'time']);
  }
  return facts;
}

function showSummary() {
  const section = byId('summary'), { runs } = state;
  if (runs.length === 1) {
    const hasSteps = runs[0].curves.steps.length || runs[0].evaluations.steps.length;
    const facts = hasSteps ? factsOf(runs[0]) : [];
    section.replaceChildren(make('div', { class: 'tiles' }, ...facts.map(([name, value, note, key]) =>
      make('div', { class: 'card tile', 'data-tile': key }, make('div', { class: 'name' }, name),
        make('div', { class: 'value' }, value), make('div', { class: 'note' }, note)))));
    section.hidden = !facts.length;
    return;
  }
  const facts = runs.map((run) => new Map(factsOf(run).map(([name, value, note, key]) =>
    [key, { name, value, note }])));
  const keys = ['last', 'best', 'steps', 'length', 'speed', 'time']
    .filter((key) => facts.some((one) => one.has(key)));
  const names = { last: 'Last', best: 'Best', steps: 'Steps', length: 'Length', speed: 'Speed',
    time: 'Time' };
  section.replaceChildren(make('div', { class: 'card scroll' }, make('table', { class: 'runs' },
    make('thead', {}, make('tr', {}, make('th', {}, 'Run'),
      ...keys.map((key) => make('th', { class: 'number' }, names[key])))),
    make('tbody', {}, ...runs.map((run, i) => make('tr', { 'data-run': run.name },
      make('td', {}, make('label', { title: run.path }, make('input', { type: 'checkbox',
        checked: !state.hidden.has(run.index), onchange: (event) => {
          if (event.target.checked) state.hidden.delete(run.index);
          else state.hidden.add(run.index);
          redraw();
        } }), make('i', { class: 'swatch', style: `background:${colorOf(run.index)}` }), run.name)),
      ...keys.map((key) => make('td', { class: 'number', 'data-tile': key },
        facts[i].get(key)?.value ?? '–'))))))));
}

function showHeader() {
  const { runs } = state, name = runs.map((run) => run.name).join(', ');
  byId('title').textContent = runs.length > 3 ? `${runs.length} runs` : name;
  byId('title').title = runs.map((run) => run.path).join('\n');
  document.title = name ? `${name} · Lockstep` : 'Lockstep report';
  const done = runs.filter(isOver).length, bad = runs.reduce((n, run) => n + run.status.bad_lines, 0);
  const box = byId('state');
  box.className = `state${state.isLost ? ' lost' : done && done === runs.length ? ' done'
    : state.isLive ? ' live' : ''}`;
  let text = `${done} of ${runs.length} finished`;
  if (runs.length === 1) {
    const { step, max_steps: all } = runs[0].status;
    text = done ? 'finished' : all ? `step ${step} of ${all}` : `step ${step}`;
  }
  if (state.isLive && done !== runs.length) text += ', live';
  if (state.isLost) text = 'the run does not answer any more';
  box.textContent = text + (bad ? `, ${bad} lines not read` : '');
}

/** Shows everything again, with the theme that is chosen. */
function showAll() {
  showHeader();
  showSummary();
  showCurves();
  showSamples();
  showSettings();
}

/** What is remembered for the next time, where the browser lets a page do so. */
const memory = {
  get(name) {
    try { return localStorage.getItem(`lockstep-${name}`); } catch { return null; }
  },
  set(name, value) {
    try { localStorage.setItem(`lockstep-${name}`, value); } catch { /* A file may not. */ }
  },
};

const darkness = window.matchMedia('(prefers-color-scheme: dark)');
function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  byId('theme').textContent = theme === 'dark' ? 'Light' : 'Dark';
}
function toggleTheme() {
  const theme = document.documentElement.dataset.theme === 'dark' ? 'light' : 'dark';
  memory.set('theme', theme);
  setTheme(theme);
  showSummary();
  redraw();
}

function setSmoothing(value) {
  state.smoothing = Math.min(0.99, Math.max(0, Number(value)));
  byId('smoothing').value = state.smoothing;
  byId('smoothing-value').textContent = state.smoothing.toFixed(2);
}

function listen() {
  byId('theme').addEventListener('click', toggleTheme);
  darkness.addEventListener('change', (event) => {
    if (memory.get('theme')) return;
    setTheme(event.matches ? 'dark' : 'light');
    showSummary();
    redraw();
  });
  byId('smoothing').addEventListener('input', (event) => {
    setSmoothing(event.target.value);
    memory.set('smoothing', state.smoothing);
    redraw();
  });
  byId('axis').addEventListener('change', (event) => {
    state.axis = event.target.value;
    zoomTo(null);
  });
  byId('filter').addEventListener('input', (event) => {
    state.filter = event.target.value;
    filterCharts();
  });
  byId('reset').addEventListener('click', () => zoomTo(null));
  window.addEventListener('resize', redraw);
  document.addEventListener('keydown', (event) => {
    const isTyping = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)
      && event.target.type !== 'range';
    if (event.key === 'Escape') {
      zoomTo(null);
      hideCrosses();
    } else if (event.key === '/' && !isTyping) {
      event.preventDefault();
      byId('filter').focus();
    } else if (event.key === 't' && !isTyping && !event.ctrlKey && !event.metaKey) toggleTheme();
  });
}

/** How often a live page asks, and how much longer it waits each time that nobody answers. */
const POLL_MS = 2000, MOST_POLL_MS = 30000;

async function asked(path) {
  const response = await fetch(path, { cache: 'no-store', signal: AbortSignal.timeout(20000) });
  if (!response.ok) throw new Error(`expected an answer, got ${response.status}`);
  return response.json();
}

/** Takes what is new of each run. Returns whether anything is. */
async function takeChanges() {
  const known = state.runs.map((run) => {
    // The last row may stand for more lines now than it did.
    const rows = Math.max(0, run.curves.steps.length - 1);
    return `${run.curves.generation}.${rows}.${run.shown_version ?? -1}`;
  });
  const changes = await asked(`changes.json?known=${known.join(',')}`);
  let isChanged = false;
  for (let i = 0; i < changes.runs.length; ++i) {
    const change = changes.runs[i], run = state.runs[i];
    const isNew = change.status.step !== run.status.step
      || change.curves.rows !== run.curves.steps.length
      || change.evaluations.rows !== run.evaluations.steps.length
      || (change.summary !== null) !== (run.summary !== null);
    run.curves = joinTables(run.curves, change.curves);
    run.evaluations = tableOf(change.evaluations);
    run.status = change.status;
    run.summary = change.summary;
    if (change.settings && !Object.keys(run.settings).length) {
      run.settings = change.settings;
      showSettings();
    }
    if (change.samples) {
      Object.assign(run, { samples: change.samples, lengths: change.lengths,
        length_unit: change.length_unit });
      run.shown_version = change.shown_version;
      // Somebody who reads or looks for something is not disturbed.
      if (!byId('samples').contains(document.activeElement)) showSamples();
    }
    isChanged ||= isNew || Boolean(change.samples);
  }
  return isChanged;
}

async function follow() {
  let wait = POLL_MS;
  for (;;) {
    await new Promise((resolve) => { setTimeout(resolve, wait); });
    const wasLost = state.isLost;
    try {
      const isChanged = await takeChanges();
      state.isLost = false;
      wait = POLL_MS;
      if (isChanged || wasLost) {
        showHeader();
        showSummary();
        showCurves();
      }
    } catch {
      // A run that has ended takes its server along: what it has said stays here.
      state.isLost = !state.runs.every(isOver);
      wait = Math.min(MOST_POLL_MS, wait * 2);
      showHeader();
    }
  }
}

async function begin() {
  setTheme(memory.get('theme') ?? (darkness.matches ? 'dark' : 'light'));
  let data = JSON.parse(byId('data').textContent);
  state.isLive = Boolean(data.live);
  if (state.isLive) data = await asked('data.json');
  state.runs = data.runs.map(runOf);
  const rows = Math.max(0, ...state.runs.map((run) => run.curves.steps.length));
  setSmoothing(memory.get('smoothing') ?? (rows < 30 ? 0 : rows < 150 ? 0.6 : 0.85));
  byId('axis-label').hidden = !state.runs.every((run) => run.curves.columns.has('num_tokens'));
  listen();
  showAll();
  document.documentElement.dataset.ready = 'true';
  if (state.isLive) follow();
}
begin().catch((error) => {
  byId('curves').replaceChildren(make('div', { class: 'card empty' },
    make('strong', {}, 'The page could not be made'), String(error)));
});
