// Completions over the steps: a prompt, and what was made of it at several steps side by side.
// SPDX-License-Identifier: Apache-2.0

const samples = { run: 0, prompt: 0, find: '' };

/** Text with what is looked for marked. */
function marked(text, wanted) {
  const fragment = document.createDocumentFragment();
  if (!wanted) {
    fragment.append(text);
    return fragment;
  }
  const lower = text.toLowerCase();
  let at = 0;
  for (let found; (found = lower.indexOf(wanted, at)) >= 0; at = found + wanted.length) {
    fragment.append(text.slice(at, found), make('mark', {}, text.slice(found,
      found + wanted.length)));
  }
  fragment.append(text.slice(at));
  return fragment;
}

/** The prompt without what its chat template puts around the question, for the list. */
function questionOf(prompt) {
  const turns = prompt.split(/<\|im_start\|>user\n|<\|user\|>|\[INST\]|<start_of_turn>user\n/);
  const last = turns.at(-1).split(/<\|im_end\|>|<\|assistant\|>|\[\/INST\]|<end_of_turn>/)[0];
  return last.trim() || prompt;
}

function matches(entry, wanted) {
  return !wanted || entry.prompt.toLowerCase().includes(wanted)
    || entry.rounds.some((round) => round.completions.some((completion) =>
      completion.text.toLowerCase().includes(wanted)));
}

function answerOf(completion, rewards, wanted) {
  const better = completion.advantage > 0 ? ' good' : completion.advantage < 0 ? ' poor' : '';
  const facts = [];
  rewards.forEach((name, i) => {
    facts.push(make('span', {}, `${name} `, make('b', {}, numberText(completion.rewards[i]))));
  });
  if (completion.advantage !== null) {
    const sign = completion.advantage > 0 ? '+' : '';
    facts.push(make('span', { title: 'advantage' }, 'adv. ',
      make('b', {}, sign + numberText(completion.advantage))));
  }
  if (completion.length !== undefined) {
    facts.push(make('span', {}, make('b', {}, String(completion.length)), ' tokens'));
  }
  if (completion.reason === 'length') {
    facts.push(make('span', { class: 'cut' }, 'cut at the limit'));
  } else if (completion.reason) facts.push(make('span', {}, completion.reason));
  return make('div', { class: `answer${better}` }, make('div', { class: 'facts' }, ...facts),
    make('pre', {}, marked(completion.text || '(empty)', wanted)));
}

/** Below it stands nothing: the list and the columns of the run that is chosen. */
function showChosen(body) {
  const run = state.runs[samples.run], data = run.samples;
  const wanted = samples.find.trim().toLowerCase();
  const found = data.prompts.map((entry, index) => ({ entry, index }))
    .filter(({ entry }) => matches(entry, wanted));
  if (!found.length) {
    body.replaceChildren(make('div', { class: 'empty' }, make('strong', {}, 'Nothing found'),
      `None of the ${data.prompts.length} prompts here and none of their completions has “${
        samples.find}”.`));
    return;
  }
  if (!found.some(({ index }) => index === samples.prompt)) samples.prompt = found[0].index;
  const list = make('div', { class: 'prompts', role: 'list', 'aria-label': 'Prompts' },
    ...found.map(({ entry, index }) => make('button', { type: 'button',
      'aria-current': String(index === samples.prompt),
      onclick: () => {
        samples.prompt = index;
        const { scrollTop, scrollLeft } = list;
        showChosen(body);
        Object.assign(body.querySelector('.prompts'), { scrollTop, scrollLeft });
        body.querySelector('.prompts [aria-current="true"]').focus();
      } },
    make('span', { class: 'text' }, marked(questionOf(entry.prompt).slice(0, 200), wanted)),
    make('span', { class: 'note' }, entry.seen === 1 ? `step ${entry.rounds[0].step}`
      : `${entry.seen} times`))));
  const entry = data.prompts[samples.prompt];
  const solution = entry.solution ? make('p', { class: 'note' }, `solution: ${entry.solution}`)
    : null;
  body.replaceChildren(make('div', { class: 'samples' }, list,
    make('div', { class: 'shown' },
      make('div', { class: 'question' }, make('pre', {}, marked(entry.prompt, wanted)), solution),
      make('div', { class: 'steps', tabindex: 0, role: 'region',
        'aria-label': 'Completions by step' },
      ...entry.rounds.map((round) => make('div', { class: 'step', 'data-step': round.step },
        make('h3', {}, `step ${round.step}`, make('small', {},
          round.count > round.completions.length
            ? `${round.completions.length} of ${round.count}, best first` : '')),
        ...round.completions.map((one) => answerOf(one, data.rewards, wanted))))))));
}

function showSamples() {
  const section = byId('samples');
  const withSamples = state.runs.filter((run) => run.samples.prompts.length);
  const title = make('h2', {}, 'Completions');
  if (!withSamples.length) {
    section.replaceChildren(title, make('div', { class: 'card empty' },
      make('strong', {}, 'No completions here'),
      state.isLive ? 'They come with the first round of sampling, if it is written '
        + '(--log_completions true).'
        : 'completions.jsonl is missing or empty: an sft run has none, and grpo writes them '
          + 'with --log_completions true.'));
    return;
  }
  if (!state.runs[samples.run].samples.prompts.length) samples.run = withSamples[0].index;
  const body = make('div', { class: 'card' });
  const { distinct, prompts, rounds } = state.runs[samples.run].samples;
  title.append(make('small', {}, `${prompts.length} of ${distinct.toLocaleString('en-US')} `
    + `prompts, out of ${rounds.toLocaleString('en-US')} rounds`));
  const box = make('input', { type: 'search', placeholder: 'Find in completions',
    'aria-label': 'Find in prompts and completions', id: 'find',
    oninput: (event) => {
      samples.find = event.target.value;
      showChosen(body);
    } });
  box.value = samples.find;
  const choice = withSamples.length < 2 ? null : make('select', { 'aria-label': 'Run',
    onchange: (event) => {
      samples.run = Number(event.target.value);
      samples.prompt = 0;
      showSamples();
    } }, ...withSamples.map((run) => make('option', { value: run.index,
    selected: run.index === samples.run }, run.name)));
  title.append(make('span', { class: 'find' }, choice, box));
  section.replaceChildren(title, body);
  showChosen(body);
}
