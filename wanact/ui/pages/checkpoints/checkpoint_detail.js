import {build} from '../../web/build.js';

// Everything about one checkpoint, drawn into a panel; what it needs from the server it asks for itself.
export function makeDetail(panel, {ask, act, isPicked, others, noteOf, keepNote}) {
  const megabytes = bytes =>
    bytes >= 2 ** 30
      ? (bytes / 2 ** 30).toFixed(2) + ' GB'
      : bytes >= 2 ** 20
        ? (bytes / 2 ** 20).toFixed(1) + ' MB'
        : Math.max(1, Math.round(bytes / 1024)) + ' kB';
  let shown = null;
  const open = {metadata: false, config: false, files: false, differ: false};
  let token = 0;

  function tree(content) {
    const rows = [];
    (function walk(value, name) {
      if (
        value &&
        typeof value === 'object' &&
        Object.keys(value).length &&
        !(Array.isArray(value) && value.every(item => typeof item !== 'object'))
      )
        for (const [key, item] of Object.entries(value)) walk(item, name ? `${name}.${key}` : key);
      else rows.push([name, Array.isArray(value) ? value.join(', ') : String(value)]);
    })(content, '');
    return build(
      'div',
      {class: 'tree', tabindex: 0},
      build(
        'table',
        {},
        build(
          'tbody',
          {},
          ...rows.slice(0, 600).map(([name, value]) => build('tr', {}, build('td', {}, name), build('td', {}, value))),
        ),
      ),
    );
  }
  function section(name, title, ...content) {
    const details = build('details', {open: open[name]}, build('summary', {}, title), ...content);
    details.addEventListener('toggle', () => {
      open[name] = details.open;
    });
    return details;
  }
  function fact(list, name, value) {
    if (value) list.append(build('dt', {}, name), build('dd', {}, value));
  }

  function pilotAct(item) {
    const flies = ['verified', 'whole'].includes(item.state);
    const words = {
      type: 'button',
      class: 'go',
      'data-act': 'pilot',
      disabled: !flies,
      onclick: () => act('pilot', item),
    };
    return build('button', words, 'Let it fly');
  }
  function modelActs(item, more, flyable, picked) {
    return [
      build(
        'button',
        {type: 'button', class: 'go', 'data-act': 'fly', disabled: !flyable, onclick: () => act('fly', item)},
        'Plan a clip',
      ),
      build(
        'button',
        {
          type: 'button',
          'data-act': 'live',
          disabled: !flyable || !more?.live,
          title: more && !more.live ? 'Live flight needs a causal checkpoint' : '',
          onclick: () => act('live', item),
        },
        'Fly',
      ),
      build(
        'button',
        {
          type: 'button',
          'data-act': 'compare',
          'aria-pressed': picked ? 'true' : 'false',
          disabled: !flyable && !picked,
          onclick: () => act('mark', item),
        },
        picked ? 'Remove from comparison' : 'Add to comparison',
      ),
    ];
  }

  function draw(item, more) {
    const uploaded = item.id.startsWith('upload/');
    const flyable = !['damaged', 'weightless'].includes(item.state);
    const facts = build('dl', {class: 'facts'});
    if (item.card)
      fact(
        facts,
        'Control',
        `${item.card.quick ? 'about ' : ''}${Math.round(100 * (item.control ?? 0))}% of ${item.card.of}` +
          (item.card.quick ? ' (a quick measurement)' : ''),
      );
    if (item.success != null) fact(facts, 'Success', `${Math.round(100 * item.success)}% of ${item.successOf}`);
    fact(facts, 'Loss', item.loss === null ? '' : item.loss.toFixed(5));
    fact(
      facts,
      'Saved',
      item.saved ? new Date(item.saved * 1000).toLocaleString([], {dateStyle: 'medium', timeStyle: 'short'}) : '',
    );
    fact(
      facts,
      'State',
      {
        verified: uploaded ? 'verified: weights valid' : 'verified: checksums match; weights valid',
        whole: 'complete: file sizes match; checksums not checked yet',
        unsummed: 'an older format without checksums',
        weightless: 'cannot be flown',
        damaged: 'damaged',
      }[item.state],
    );
    fact(facts, 'Size', item.bytes ? megabytes(item.bytes) : '');
    fact(facts, 'Injection', more?.injection || item.injection);
    if (more) {
      const fits =
        more.fits === true ? ' (this model)' : more.fits === false ? `, but not the weights of ${more.here} here` : '';
      fact(facts, 'Base', more.base ? more.base + fits : '');
      fact(facts, 'Kind', more.live ? 'causal: flies live' : more.stage);
      fact(facts, 'Upload', more.summary);
    }
    const picked = isPicked(item.id);
    const note = noteOf(item);
    const acts = build('div', {class: 'acts'});
    acts.append(
      ...(item.isPilot ? [pilotAct(item)] : modelActs(item, more, flyable, picked)),
      build(
        'button',
        {
          type: 'button',
          class: 'star-it',
          'data-act': 'star',
          'aria-pressed': note.star ? 'true' : 'false',
          onclick: () => keepNote(item, {...note, star: !note.star}),
        },
        note.star ? '★ Starred' : '☆ Star',
      ),
    );
    if (['whole', 'unsummed'].includes(item.state) && !uploaded)
      acts.append(
        build(
          'button',
          {type: 'button', 'data-act': 'verify', onclick: event => verify(item, event.target)},
          'Verify now',
        ),
      );
    const text = build('textarea', {maxlength: 2000, rows: 2, placeholder: 'What did you see?'});
    text.value = note.note;
    text.addEventListener('change', () => {
      if (text.value.trim() !== note.note) keepNote(item, {...noteOf(item), note: text.value.trim()});
    });
    const remark = build('small', {class: 'kept'}, note.where);
    panel.replaceChildren(
      build('h2', {}, item.title, ...item.marks.map(mark => build('span', {class: 'mark ' + mark.kind}, mark.text))),
      build('p', {class: 'sub'}, item.run === 'upload' ? 'Only you see it' : item.id),
      ...(item.problem ? [build('p', {class: 'why', role: 'alert'}, item.problem)] : []),
      acts,
      facts,
      build('div', {class: 'note'}, build('label', {}, 'Note', text), remark),
    );
    if (!more) {
      panel.append(build('p', {class: 'sub'}, 'Reading…'));
      return;
    }
    if (more.problem) {
      panel.append(build('p', {class: 'why'}, more.problem));
      return;
    }
    panel.append(section('differ', 'Compare its settings', differ(item)));
    if (more.metadata) panel.append(section('metadata', 'Metadata', tree(more.metadata)));
    if (more.config && Object.keys(more.config).length)
      panel.append(section('config', 'Configuration', tree(more.config)));
    if (more.files?.length)
      panel.append(
        section(
          'files',
          `Files (${more.files.length})`,
          tree(Object.fromEntries(more.files.map(file => [file.name, megabytes(file.bytes)]))),
        ),
      );
  }
  function differ(item) {
    const box = build('div', {class: 'differ'});
    const list = others(item);
    if (!list.length) {
      box.append(build('p', {}, 'There is no other checkpoint to compare with.'));
      return box;
    }
    const choose = build(
      'select',
      {'aria-label': 'Compare with'},
      build('option', {value: ''}, 'Compare with…'),
      ...list.map(other => build('option', {value: other.id}, other.title)),
    );
    const answer = build('div', {});
    choose.addEventListener('change', async () => {
      if (!choose.value) return answer.replaceChildren();
      const found = await ask('compare_settings', {a: item.id, b: choose.value});
      if (found.problem) return answer.replaceChildren(build('p', {}, found.problem));
      const head = build(
        'tr',
        {},
        ...['Setting', item.title, choose.selectedOptions[0].textContent].map(name =>
          build('th', {scope: 'col'}, name),
        ),
      );
      answer.replaceChildren(
        build(
          'p',
          {},
          found.total ? `${found.total} differ, ${found.equal} are the same.` : `All ${found.equal} are the same.`,
        ),
        ...(found.total
          ? [
              build(
                'table',
                {},
                build('thead', {}, head),
                build(
                  'tbody',
                  {},
                  ...found.rows.map(row => build('tr', {}, ...row.map(cell => build('td', {}, cell)))),
                ),
              ),
            ]
          : []),
      );
    });
    box.append(choose, answer);
    return box;
  }
  async function verify(item, button) {
    button.disabled = true;
    button.textContent = 'Reading every file…';
    const found = await ask('verify_checkpoint', {id: item.id});
    act('verified', item, found);
  }
  async function show(item) {
    const mine = ++token;
    if (!item) {
      shown = null;
      panel.replaceChildren(
        build('h2', {}, 'No checkpoint is selected'),
        build('p', {class: 'sub'}, 'Pick a point on the curve or a row of the list.'),
      );
      return;
    }
    draw(item, shown?.id === item.id ? shown.more : null);
    const more = await ask('show_checkpoint', {id: item.id});
    if (mine !== token) return; // another one was picked meanwhile
    shown = {id: item.id, more};
    draw(item, more);
  }
  // Drawn again without asking, unless somebody is writing in it.
  function refresh(item) {
    if (item && shown?.id === item.id && !panel.contains(document.activeElement?.closest('textarea')))
      draw(item, shown.more);
  }
  return {show, refresh};
}
