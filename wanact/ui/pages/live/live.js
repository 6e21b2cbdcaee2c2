import {sharedAddress, wantedFlight} from '../../web/address.js';
import {blobOf} from '../../web/blob.js';
import {CHANNELS, channelIcon, OPPOSITE} from '../../web/channels.js';
import {collect, connect} from '../../web/events.js';
import {Gamepads} from '../../web/gamepad.js';
import {holdKeys} from '../../web/keys.js';
import {holdStick, LOOK, MOVE} from '../../web/sticks.js';
import {Autopilot} from './autopilot.js';
import {Course} from './course.js';
import {Ground} from './ground.js';
import {Handoff} from './handoff.js';
import {Film, Player} from './player.js';
import {takeSeat} from './seats.js';
import {SpeedCard} from './speed_card.js';
import {TruthPane} from './truth_pane.js';
import {isStill, Timewarp, Warper} from './warp.js';

const BEGINNINGS = new Set(['line', 'catching', 'start']); // what a flight says before its pictures
const ALWAYS = new Set([...BEGINNINGS, 'state', 'end', 'failed']); // and what can be heard without them

export function mount({element, props, trigger, server, watch}) {
  const {announce, hear} = connect(element);
  const root = element.querySelector('.live');
  const find = selector => root.querySelector(selector);
  const canvas = find('canvas');
  const scrub = find('.timeline input');
  const say = find('.say');
  const notice = find('.notice');
  const KEPT = 'wanact-live';
  const PING_MS = 400;
  const SILENT_MS = 4000;
  const HIDDEN_MS = 60000;
  const MOST_PIXELS = 640;
  const LOOK_BACK_S = 5; // from where nothing is left to see
  const REST = CHANNELS.map(() => 0);
  const FULL = [0.05, 0.05, 0.05, 0.05, 3, 3, 3, 3];
  const warper = new Warper(canvas);
  const timewarp = new Timewarp();
  const handoff = new Handoff(timewarp);
  const player = new Player(props.fps);
  const ground = new Ground(root);
  const card = new SpeedCard(root, player, timewarp, handoff);
  const {numbers} = card;
  const truth = new TruthPane(root, props, keep);
  const course = new Course(root);

  // ---- what flies -----------------------------------------------------------------------------------------------
  let state = 'idle'; // idle, shared, line, flying, paused, scrubbing, landed, failed
  let watched = null; // the shared flight that plays: {id, fps, prompt, seconds}
  let flight = '';
  let begun = ''; // the flight whose start was heard
  let order = {};
  let asked = false;
  const known = new Set(); // flights that were ours
  const branches = [];
  let branch = null; // {name, id, film, words}
  let sequence = 0;
  let lastPost = 0;
  let ackBusy = false;
  let ackWanted = false;
  let shownIndex = 0;
  let paused = false;
  let pausedByTab = false;
  let hiddenAt = 0; // when this tab went out of sight; 0 while it is seen
  let leaveSeat = null;
  let heardAt = 0;
  let silent = false;
  let wantedFile = {};
  let shown = null; // the newest frame on the canvas: {image, i, t, a, n, attitude}
  let attitude = [0, 0];

  function show(next) {
    state = root.dataset.state = next;
    const flying = state === 'flying';
    const up = flying || state === 'paused' || state === 'scrubbing';
    if (!up) showLost(false);
    const shared = state === 'shared';
    for (const name of ['takeover', 'again']) find(`[data-do=${name}]`).hidden = !shared;
    find('.replay').hidden = !shared && !(state === 'line' && order.shared); // it stands until it is flown
    if (!shared) find('.replay').pause();
    find('[data-do=share]').hidden = state !== 'landed' && state !== 'idle'; // idle with a flight: after a reload
    if (up) announce('live-airborne', {});
    find('[data-do=takeoff]').hidden = !['idle', 'failed', 'landed', 'shared'].includes(state);
    find('[data-do=takeoff]').textContent = shared ? 'Fly your own' : branches.length ? 'New flight' : 'Take off';
    find('[data-do=takeoff]').classList.toggle('big', !shared);
    find('[data-do=continue]').hidden = !(
      state === 'paused' ||
      (['landed', 'idle', 'failed'].includes(state) && branch?.id)
    );
    find('[data-do=continue]').textContent = state === 'paused' ? 'Go on' : 'Continue';
    find('[data-do=cancel]').hidden = state !== 'line';
    find('.timeline').hidden = !branch || !['flying', 'paused', 'scrubbing', 'landed'].includes(state);
    find('.moment').hidden = state !== 'scrubbing';
    find('[data-do=land]').hidden = !up;
    find('[data-do=restart]').hidden = !up;
    find('.after').hidden = !branch?.id;
    find('[data-do=pause]').classList.toggle('playing', flying);
    find('[data-do=pause]').setAttribute('aria-label', flying ? 'Pause' : 'Go on');
    const goesOn = !find('[data-do=continue]').hidden && !ground.isNew;
    find('[data-do=continue]').classList.toggle('main', goesOn);
    find('[data-do=takeoff]').classList.toggle('main', !goesOn);
    offerTruth();
    root.classList.toggle('has-picture', !ground.covers(state, !!shown, branch?.pending === 'new'));
    ground.invite(state, !!branch);
  }
  // Of the flight on the stage, or of the first frame that is chosen for one.
  function offerTruth() {
    const isOnStage = branch?.id && !ground.isNew;
    truth.offer(isOnStage ? Boolean(branch.known) : null, ground.chosen && ground.isSettled ? ground.name : null);
  }
  // The prompt can be used now: a flight is in the air that was told another one.
  function offerWords() {
    const isUp = ['flying', 'paused', 'scrubbing'].includes(state);
    root.classList.toggle('new-words', isUp && ground.saysElse(branch?.words));
  }
  function tell(text) {
    if (say.textContent !== text) say.textContent = text;
  }
  function warn(text) {
    notice.hidden = !text;
    notice.querySelector('span').textContent = text || '';
  }

  // ---- to the server --------------------------------------------------------------------------------------------
  function post(message) {
    if (!flight) return Promise.resolve();
    lastPost = performance.now();
    const id = flight;
    return server.control({flight: id, n: ++sequence, ...message}).catch(() => null);
  }
  function tellKeys() {
    return post({held: held.map(value => Math.round(value * 1000) / 1000), paused, truth: truth.isOn, ack: shownIndex});
  }
  truth.onChange = tellKeys;
  // Acknowledgements are bunched, one on its way at a time, so that keys never wait behind them on a slow line.
  function acknowledge() {
    if (ackBusy) {
      ackWanted = true;
      return;
    }
    ackBusy = true;
    post({ack: shownIndex}).finally(() => {
      ackBusy = false;
      if (ackWanted) {
        ackWanted = false;
        acknowledge();
      }
    });
  }
  const ping = setInterval(() => {
    if (!element.isConnected) return clearInterval(ping);
    if (!flight || !['line', 'flying', 'paused', 'scrubbing'].includes(state)) return;
    if (performance.now() - lastPost > PING_MS) acknowledge();
    away(!root.getClientRects().length); // another place of the page is in front
    if (hiddenAt && performance.now() - hiddenAt > HIDDEN_MS) return vanish();
    const quiet = performance.now() - heardAt > SILENT_MS;
    if (quiet !== silent && (state === 'flying' || state === 'line')) {
      silent = quiet;
      tell(quiet ? 'No answer from the server; waiting for it…' : '');
      if (quiet && state === 'flying' && shownIndex) letGo(); // keys that are held for the take-off wait with it
    }
  }, PING_MS / 2);

  // ---- keys, sticks, gamepad ------------------------------------------------------------------------------------
  let held = REST.slice();
  let keys = REST.slice();
  const sticks = {move: REST, look: REST};
  const gamepads = new Gamepads();
  let gamepad = REST;
  let speed = 1;
  let lastAnalogue = 0;
  const lamps = CHANNELS.map((channel, i) => {
    const lamp = document.createElement('div');
    lamp.className = 'lamp ' + channel.id;
    lamp.append(channelIcon(i));
    find('.hud .' + channel.group).append(lamp);
    const cap = document.createElement('button');
    cap.type = 'button';
    cap.className = 'cap ' + channel.id;
    cap.dataset.channel = i;
    cap.setAttribute('aria-label', channel.label);
    cap.setAttribute('aria-pressed', 'false');
    cap.setAttribute('aria-keyshortcuts', channel.code.replace('Key', ''));
    cap.append(channelIcon(i));
    const key = document.createElement('kbd');
    key.textContent = channel.key;
    key.setAttribute('aria-hidden', 'true');
    cap.append(key);
    find('.stick.' + channel.group).append(cap);
    return lamp;
  });
  const autopilot = new Autopilot(root, {
    lamps,
    onAsk: wanted => post({pilot: wanted}),
    restore: () =>
      lamps.forEach((lamp, i) => {
        lamp.classList.toggle('on', held[i] > 0);
      }),
  });
  const keyboard = holdKeys(root, (_, pressed) => {
    keys = pressed;
    changed();
  });
  const grips = {};
  for (const [group, channels] of [
    ['move', MOVE],
    ['look', LOOK],
  ])
    grips[group] = holdStick(find('.stick.' + group), channels, values => {
      sticks[group] = values;
      changed();
    });

  function letGo() {
    keyboard.releaseAll();
    grips.move.release();
    grips.look.release();
  }
  root.addEventListener('focusout', event => {
    if (!root.contains(event.relatedTarget)) letGo();
  });
  document.addEventListener('visibilitychange', () => {
    hiddenAt = document.hidden ? performance.now() : 0;
    if (element.isConnected && flight) away(document.hidden);
  });
  // Nobody has looked for a while: the place, and the connection that it holds, are for others. It can be gone on with.
  function vanish() {
    const wasInLine = state === 'line';
    post({stop: true});
    if (wasInLine) fail('You left the line: this tab was hidden for a minute.');
    else land('Landed: this tab was hidden for a minute.', 'vanished');
  }
  // Nobody looks: the flight waits, and goes on when somebody does.
  function away(isAway) {
    if (isAway && state === 'flying') {
      pausedByTab = true;
      pause(true);
    } else if (!isAway && !document.hidden && pausedByTab) {
      pausedByTab = false;
      if (state === 'paused') pause(false);
    }
  }
  function changed() {
    const strongest = CHANNELS.map((_, i) => Math.max(keys[i], sticks.move[i], sticks.look[i], gamepad[i]));
    const net = strongest.map((value, i) => Math.max(0, value - strongest[OPPOSITE[i]]) * speed);
    const turnedOn = net.some((value, i) => value > 0 !== held[i] > 0);
    const moved = net.some((value, i) => Math.abs(value - held[i]) > 0.02);
    if (!turnedOn && !moved) return;
    const now = performance.now();
    if (!turnedOn && now - lastAnalogue < 50) return; // sticks move all the time; the last position is sent by `frame`
    lastAnalogue = now;
    const before = held;
    held = net;
    lamps.forEach((lamp, i) => {
      lamp.classList.toggle('on', held[i] > 0);
    });
    const isDown = held.some(value => value > 0);
    if (isDown && (state === 'line' || state === 'flying')) ground.steered = true;
    if (isDown && turnedOn && state === 'idle' && !branch) return actions.takeoff();
    ground.invite(state, !!branch);
    if (state !== 'flying' && state !== 'line') return;
    tellKeys();
    if (turnedOn && state === 'flying') {
      numbers.pending.push({n: sequence, at: now});
      const began = held.some((value, i) => value > 0 && !before[i]);
      if (began) numbers.pixel = {at: now, n: sequence, drawn: false};
      if (began && shown) handoff.begin(shown.image, actionOf(held), shown.a, sequence);
    }
  }
  // What the picture is moved by until frames obey it: the visitor's keys, or the sticks that a pilot holds now.
  const hands = () => (autopilot.flies && !held.some(value => value > 0) ? shown.a : actionOf(held));
  const actionOf = values => values.map((value, i) => value * FULL[i]);

  // ---- the server's messages ------------------------------------------------------------------------------------
  watch('value', () => {
    const message = props.value;
    if (!message?.kind) return;
    // The first that is heard of a flight makes it ours. What two flights say at once is one value, so that the end of
    // the flight before may hide the first word of this one.
    if (BEGINNINGS.has(message.kind) && asked && message.flight && !known.has(message.flight)) {
      flight = message.flight;
      known.add(flight);
      asked = false;
      sequence = shownIndex = 0;
      if (state !== 'line') return;
      tellKeys(); // what is held already counts from the first picture on
    }
    const refused = asked && message.kind === 'failed'; // before it had a place in the line
    if (message.flight && message.flight !== flight && !refused) return; // of a flight that was left
    // A start that was hidden by the next value is said again, from the newest picture on; what came between is left.
    if (begun !== flight && !ALWAYS.has(message.kind)) return;
    heardAt = performance.now();
    if (silent) {
      silent = false;
      tell('');
    }
    if (message.kind === 'line')
      tell(message.place > 1 ? `In line: number ${message.place}` : message.place ? 'You are next' : 'Taking off…');
    else if (message.kind === 'catching') tell(`Flying to this moment: ${Math.round(100 * message.share)}%`);
    else if (message.kind === 'start' && begun === flight) acknowledge();
    else if (message.kind === 'start') start(message);
    else if (message.kind === 'frames') take(message);
    else if (message.kind === 'state' && state === 'flying')
      tell(
        {busy: 'Waiting: the model is busy with another visitor…', slow: '', lost: 'The connection is slow…'}[
          message.state
        ] || '',
      );
    else if (message.kind === 'truth') truth.take(message);
    else if (message.kind === 'course') course.take(message);
    else if (message.kind === 'pilot') {
      autopilot.answer(message);
      if (message.problem) warn(message.problem);
    } else if (message.kind === 'finished') finish(message);
    else if (message.kind === 'rewound' || message.kind === 'prompt') granted(message);
    else if (message.kind === 'end') land(message.message, message.reason);
    else if (message.kind === 'failed' && (flight || asked)) fail(message.message);
  });

  async function start(message) {
    begun = flight;
    const first = blobOf(message.first);
    player.clear();
    player.fps = message.fps;
    timewarp.rest();
    if (!branch || branch.pending === 'new') {
      branch = {name: `Flight ${branches.filter(one => !one.from).length + 1}`, film: new Film(first, message.t)};
      branches.push(branch);
    }
    delete branch.pending;
    branch.id = flight;
    branch.earliest = message.earliest;
    branch.words = message.prompt;
    branch.known = message.known;
    truth.clear();
    course.start(message.course, message.width / message.height);
    autopilot.start(message.width / message.height, Boolean(message.course));
    if (branch.film.end !== message.t) branch.film = new Film(first, message.t);
    else branch.film.cut(message.t);
    while (branches.length > 6)
      branches.splice(
        branches.findIndex(one => one !== branch),
        1,
      );
    card.restart();
    attitude = message.attitude;
    const scale = Math.max(1, Math.min(2, Math.floor(MOST_PIXELS / message.width)));
    canvas.width = message.width * scale;
    canvas.height = message.height * scale;
    find('.screen').style.setProperty('--ratio', message.width / message.height);
    paused = false;
    remember();
    tell('');
    warn('');
    const image = await createImageBitmap(first);
    if (flight !== message.flight) return image.close(); // it was left meanwhile
    setShown({image, i: message.i, k: 3, t: message.t, a: REST, n: 0, attitude});
    shownIndex = message.i;
    show('flying');
    listBranches();
    root.focus({preventScroll: true});
    tellKeys();
    if (autopilot.asked) post({pilot: autopilot.asked});
  }
  function take(message) {
    autopilot.take(message);
    for (const blob of player.take(message)) branch.film.add(blob);
    branch.earliest = message.earliest;
    if (message.ms) card.take(message.ms);
    if (state === 'flying' && !silent) tell('');
    if (message.k) return;
    const left = find('.left');
    left.hidden = message.left === null || message.left === undefined;
    left.textContent = left.hidden ? '' : `others wait: ${message.left} s`;
    showLost(message.lost);
    showTime();
  }
  // Nothing is left to see: the way out is offered until it is taken, or something is seen again.
  function showLost(isLost) {
    find('.lost').hidden = !isLost;
    root.classList.toggle('is-lost', !!isLost);
  }
  function granted(message) {
    if (message.problem) warn(message.problem);
    branch.words = message.prompt;
    if (message.kind === 'prompt') {
      if (!message.problem) say.textContent = 'The prompt has changed.';
      setTimeout(() => {
        if (state === 'flying') tell('');
      }, 1500);
      return;
    }
    shownIndex = Math.max(shownIndex, player.expected - 1); // what came and is not shown any more has arrived, too
    player.clear();
    timewarp.rest();
    branch.film.cut(message.t);
    truth.cut(message.t);
    course.spoil();
    autopilot.clear();
    showLost(false);
    attitude = message.attitude;
    numbers.pending = [];
    picture(branch.film.at(message.t), message.t);
    pause(false);
    root.focus({preventScroll: true});
  }
  function finish(message) {
    course.finish(message.seconds);
    announce('course-finished', message);
  }
  function land(message, why) {
    letGo();
    flight = '';
    standUp();
    timewarp.rest();
    course.land();
    autopilot.land();
    tell(why === 'landed' ? '' : message);
    if (branch) show('landed');
    else show('idle');
    scrub.disabled = false;
    showTime();
    listBranches();
  }
  function fail(message) {
    letGo();
    flight = '';
    asked = false;
    standUp();
    tell('');
    warn(message);
    if (branch?.pending) branch = branches.find(one => one.id) || null;
    course.land();
    autopilot.land();
    show(branch ? 'landed' : order.shared ? 'shared' : 'failed');
  }
  hear('live-failed', () => {
    if (state === 'line') fail('The server did not take this flight; try again in a moment.');
  });

  // ---- what the visitor wants -----------------------------------------------------------------------------------
  function standUp() {
    leaveSeat?.();
    leaveSeat = null;
  }
  async function takeOff(wanted, pending) {
    if (flight) post({stop: true});
    if (branch && pending) branch = pending;
    flight = '';
    asked = true;
    order = wanted;
    paused = pausedByTab = false;
    heardAt = numbers.takeoff = performance.now();
    if (pending === null) ground.takeOff();
    ground.steered ||= held.some(value => value > 0);
    warn('');
    tell('Taking off…');
    root.focus({preventScroll: true}); // the button goes, and keys that are held already count
    show('line');
    if (!leaveSeat) leaveSeat = await takeSeat();
    if (!leaveSeat) return fail('You already fly in three tabs of this browser. Land one of them first.');
    if (!asked) return standUp(); // cancelled meanwhile
    trigger('takeoff');
  }
  function pause(wanted) {
    paused = wanted;
    if (wanted) letGo();
    show(wanted ? 'paused' : 'flying');
    tell(wanted ? (pausedByTab ? 'Paused while this tab was hidden.' : 'Paused') : '');
    tellKeys();
    showTime();
  }
  const actions = {
    takeoff() {
      branch = {pending: 'new'};
      takeOff({}, null);
    },
    restart() {
      branch = {pending: 'new'};
      takeOff(order.course ? {course: order.course} : {}, null);
    },
    continue() {
      if (state === 'paused') {
        pause(false);
        root.focus({preventScroll: true});
      } else takeOff({from: branch.id, at: branch.film.end || null}, branch);
    },
    cancel() {
      post({stop: true});
      flight = '';
      asked = false;
      standUp();
      if (branch?.pending) branch = branches[branches.length - 1] || null;
      tell('');
      show(branch ? 'landed' : order.shared ? 'shared' : 'idle');
    },
    pause() {
      if (state === 'landed') return actions.continue();
      if (state === 'scrubbing') return actions.back();
      pause(state === 'flying');
      if (state === 'flying') root.focus({preventScroll: true});
    },
    land() {
      post({stop: true});
      land('', 'landed');
    },
    rewind() {
      const at = +scrub.value;
      if (!flight) return takeOff({from: branch.id, at}, Object.assign(branch, {film: branch.film.copy(at)}));
      tell('Going back…');
      post({rewind: at, paused: true, held: REST});
    },
    recover() {
      const back = Math.round((LOOK_BACK_S * player.fps) / 4);
      tell('Going back…');
      post({rewind: Math.max(branch.earliest || 0, branch.film.end - back), paused: true, held: REST});
    },
    elsewhere() {
      actions.land();
      branch = null;
      shown?.image.close();
      shown = null;
      show('idle');
      announce('new-place', {});
      tell('Choose where to start, then take off.');
    },
    fork() {
      const at = +scrub.value;
      const of = branch;
      const count = branches.length + 1;
      const second = {
        name: `Flight ${count}`,
        from: `from ${clock(at)} of ${of.name}`,
        film: of.film.copy(at),
        words: of.words,
      };
      branches.push(second);
      takeOff({from: of.id, at}, second);
    },
    back() {
      if (!flight) {
        picture(branch.film.at(branch.film.end), branch.film.end);
        show('landed');
        return showTime();
      }
      picture(branch.film.at(branch.film.end), branch.film.end);
      pause(false);
      root.focus({preventScroll: true});
    },
    full() {
      document.fullscreenElement ? document.exitFullscreen() : root.requestFullscreen?.().catch(() => {});
    },
    dismiss() {
      warn('');
    },
    'save-clip'() {
      save('clip');
    },
    'save-record'() {
      save('record');
    },
    'save-gif'() {
      save('gif');
    },
    'save-webp'() {
      save('webp');
    },
    share() {
      wantedFile = {flight: branch.id};
      announce('live-sharing', {});
      trigger('publish'); // `share` is an event of Gradio's own, which its page keeps to itself
    },
    takeover() {
      const video = find('.replay');
      const at = video.ended ? null : Math.floor((video.currentTime * watched.fps) / 4);
      branch = {pending: 'new'};
      takeOff({shared: watched.id, at}, null);
    },
    again() {
      const video = find('.replay');
      video.currentTime = 0;
      video.play().catch(() => {});
    },
    card() {
      card.toggle();
    },
  };
  function save(what) {
    wantedFile = {flight: branch.id, what};
    announce('live-saving', {what});
    trigger('save');
  }
  root.addEventListener('click', event => {
    const name = event.target.closest('[data-do]')?.dataset.do;
    if (name) actions[name]();
    else if (event.target.closest('.screen')) root.focus({preventScroll: true});
  });
  scrub.addEventListener('input', () => {
    if (!branch) return;
    if (state === 'flying' || state === 'paused') {
      paused = true;
      letGo();
      tellKeys();
    }
    tell('');
    show('scrubbing');
    picture(branch.film.at(+scrub.value), +scrub.value);
    showTime();
  });
  hear('fly-course', ({id}) => {
    branch = {pending: 'new'};
    takeOff({course: id}, null);
    find('.screen').scrollIntoView({block: 'nearest'});
  });
  hear('live-prompt', ({words}) => {
    if (!flight || !branch) return warn('No flight is running: the new prompt applies at the next take-off.');
    post({prompt: words});
    root.focus({preventScroll: true}); // the button goes, and the keys are the flight's again
  });
  find('[name=speed]').addEventListener('input', event => {
    speed = +event.target.value / 100;
    find('.slider output').textContent = event.target.value + '%';
    changed();
  });
  find('[name=predict]').addEventListener('change', event => {
    timewarp.on = event.target.checked;
    keep('predict', timewarp.on);
  });
  find('[name=display]').addEventListener('change', event => {
    root.classList.toggle('bare', !event.target.checked);
    keep('display', event.target.checked);
  });
  function keep(name, on) {
    try {
      localStorage.setItem('wanact-live-' + name, on ? 'on' : 'off');
    } catch {
      /* not remembered */
    }
  }
  for (const [name, usual] of [
    ['predict', 'on'],
    ['display', 'on'],
    ['truth', 'off'],
  ]) {
    let kept = usual;
    try {
      kept = localStorage.getItem('wanact-live-' + name) || usual;
    } catch {
      /* the default stands */
    }
    const box = find(`[name=${name}]`);
    if (kept !== usual && box.disabled) box.checked = kept === 'on';
    else if (kept !== usual) box.click();
  }

  // Several flights of this page: go back to one, and it goes on where it was left.
  function listBranches() {
    const list = find('.branches');
    list.hidden = branches.filter(one => one.film).length < 2;
    list.replaceChildren(
      ...branches
        .filter(one => one.film)
        .map(one => {
          const chip = document.createElement('button');
          const from = document.createElement('small');
          chip.type = 'button';
          chip.textContent = one.name;
          chip.setAttribute('aria-pressed', one === branch ? 'true' : 'false');
          from.textContent = [one.from, clock(one.film.end)].filter(Boolean).join(' · ');
          chip.append(from);
          chip.addEventListener('click', () => {
            if (one !== branch && one.id) takeOff({from: one.id, at: one.film.end}, one);
          });
          return chip;
        }),
    );
  }
  // A reload forgets this script, not the flight: the server keeps it for a while.
  function remember(seen = '') {
    try {
      const {id, known} = branch;
      sessionStorage.setItem(KEPT, JSON.stringify({id, known, landed: !flight, start: ground.flown, seen}));
    } catch {
      /* not remembered */
    }
  }
  try {
    const kept = JSON.parse(sessionStorage.getItem(KEPT) || 'null');
    if (kept?.id) {
      branch = {name: 'Flight 1', id: kept.id, known: kept.known === true, film: new Film(null, 0)};
      branches.push(branch);
      ground.comeBack(kept.start, kept.seen);
      if (!kept.landed) tell('Your flight was interrupted.');
    }
  } catch {
    /* storage is blocked */
  }

  addEventListener('pagehide', () => {
    if (branch?.id && shown) remember(canvas.toDataURL('image/jpeg', 0.8));
  });
  ground.takeKeys(() => state === 'idle' && !branch);
  // Who can be asked to fly; looked up again when this page comes into sight, as a training adds pilots.
  async function listPilots() {
    const found = await server.pilots({}).catch(() => null);
    if (!found?.pilots) return;
    autopilot.wanted = collect('live-pilot') || autopilot.wanted;
    const before = autopilot.asked;
    autopilot.list(found.pilots);
    if (flight && autopilot.asked !== before) post({pilot: autopilot.asked});
  }
  hear('place', ({place}) => {
    if (place === 'live') listPilots();
  });
  listPilots();
  // A link to a shared flight: it plays here, and can be taken over wherever it is.
  async function watchShared(id) {
    const found = await server.watch({id}).catch(() => null);
    if (!found || !['idle', 'failed'].includes(state)) return;
    if (found.problem) return warn(found.problem);
    watched = found;
    const video = find('.replay');
    Object.assign(video, {
      src: sharedAddress(found.id, 'clip.mp4').href,
      poster: sharedAddress(found.id, 'poster.jpg').href,
    });
    find('.screen').style.setProperty('--ratio', found.ratio);
    video.addEventListener('ended', () => state === 'shared' && tell('This is where it ended.'));
    video.addEventListener('play', () => state === 'shared' && tell(''));
    show('shared');
    if (!matchMedia('(prefers-reduced-motion: reduce)').matches) video.play().catch(() => {});
  }
  if (wantedFlight()) watchShared(wantedFlight());

  // ---- drawing --------------------------------------------------------------------------------------------------
  function setShown(frame) {
    if (shown && shown.image !== frame.image) shown.image.close();
    shown = frame;
    warper.padded = null;
    redraw(performance.now());
  }
  async function picture(blob, t) {
    if (!blob) return;
    const image = await createImageBitmap(blob);
    setShown({...(shown || {i: 0, n: 0, k: 3}), image, t, k: 3, a: REST});
    truth.show(t);
  }
  let lastTime = 0;
  let wasStill = true;
  let visible = true;
  let lastDrawn = 0;
  let drawing = 0; // milliseconds that a picture takes, on average
  function redraw(now) {
    const begun = performance.now();
    warper.draw(shown.image, timewarp.offset);
    course.draw(state === 'flying' ? timewarp.offset : null);
    autopilot.draw();
    drawing += 0.1 * (performance.now() - begun - drawing);
    lastDrawn = now;
  }
  function draw(now) {
    if (!element.isConnected) return;
    requestAnimationFrame(draw);
    if (numbers.pixel?.drawn) {
      // what was drawn in the animation frame before is on the screen now
      numbers.keyToPixel.push(performance.now() - numbers.pixel.at);
      numbers.pixel = null;
    }
    if (!visible) {
      lastTime = now;
      return;
    }
    const seconds = Math.min(0.1, (now - lastTime) / 1000);
    lastTime = now;
    pollGamepad();
    if (state !== 'flying' || !shown) return;
    changed();
    const frame = player.next(now, shown.n);
    timewarp.advance(seconds, silent ? REST : hands(), silent ? REST : shown.a, player.period, card.latency / 1000);
    const still = isStill(timewarp.offset);
    // Where drawing is slow, as without a graphics card, the model needs that time more than the prediction does.
    const rests = !frame && now - lastDrawn < Math.min(50, 8 * drawing) && !(numbers.pixel && !still);
    if (frame) arrive(frame);
    else if ((!still || !wasStill) && !rests) redraw(now);
    if (!rests) wasStill = still;
    if (numbers.pixel && !numbers.pixel.drawn && (!still || (frame && frame.n >= numbers.pixel.n)))
      numbers.pixel.drawn = true;
    root.classList.toggle('ahead', !still);
  }
  function arrive(frame) {
    const now = performance.now();
    course.see(frame);
    autopilot.see(frame);
    if (autopilot.flies && !ground.steered) {
      ground.steered = true;
      ground.invite(state, !!branch);
    }
    setShown(frame);
    if (frame.k === 3) truth.show(frame.t);
    attitude = frame.attitude;
    shownIndex = frame.i;
    if (!numbers.first) numbers.first = now - numbers.takeoff;
    numbers.shown.push(now);
    if (numbers.shown.length > 2000) numbers.shown.shift();
    while (numbers.pending.length && numbers.pending[0].n <= frame.n)
      numbers.keyToFrame.push(now - numbers.pending.shift().at);
    handoff.see(frame, frame.k === 3);
    if (frame.k % 2) acknowledge(); // each costs the server some milliseconds
  }
  function pollGamepad() {
    const typing = document.activeElement?.matches('input:not([type=range]):not([type=checkbox]), textarea, select');
    const now = document.hasFocus() && !typing && state === 'flying' ? gamepads.read() : null;
    find('.padded').hidden = !now;
    if (!now && gamepad === REST) return;
    gamepad = now || REST;
    changed();
  }
  requestAnimationFrame(draw);

  // ---- display --------------------------------------------------------------------------------------------------
  function clock(latentFrame) {
    const seconds = (4 * latentFrame) / player.fps;
    return `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, '0')}`;
  }
  function showTime() {
    if (!branch?.film) return;
    const {film} = branch;
    scrub.min = Math.max(film.start, branch.earliest || 0);
    scrub.max = film.end;
    if (state !== 'scrubbing') scrub.value = film.end;
    const at = +scrub.value;
    const share = (100 * (at - scrub.min)) / Math.max(1, scrub.max - scrub.min);
    scrub.style.setProperty('--filled', share + '%');
    scrub.setAttribute('aria-valuetext', `${clock(at)} of ${clock(film.end)}`);
    find('.time').textContent = clock(film.end);
    find('.where').textContent = `${clock(at)} of ${clock(film.end)}`;
  }
  const display = setInterval(() => {
    if (!element.isConnected) return clearInterval(display);
    visible = root.getClientRects().length > 0; // lays the page out: not in every frame
    root.classList.toggle(
      'idle-keys',
      state === 'flying' && !root.contains(document.activeElement) && !document.fullscreenElement,
    );
    if (ground.look()) show(state);
    offerWords();
    if (state !== 'flying') return;
    const fps = card.rate();
    const pill = find('.rate');
    pill.hidden = fps === null;
    if (fps !== null)
      pill.textContent = `${fps.toFixed(0)} fps` + (card.latest.length ? ` · ${Math.round(card.latency)} ms` : '');
    find('.heading').textContent = String(Math.round(((attitude[0] % 360) + 360) % 360) % 360).padStart(3, '0') + '°';
    const flown = hands().map((value, i) => value / FULL[i]);
    find('.speed').textContent = Math.round(100 * Math.hypot(flown[0] - flown[1], flown[3] - flown[2])) + '%';
    card.show();
  }, 250);
  root.wanact = {
    order: () => order,
    wanted: () => wantedFile,
    measure: () => card.measure(),
    get state() {
      return state;
    },
    get flight() {
      return flight;
    },
    get held() {
      return held.slice();
    },
    get shown() {
      return shown && {i: shown.i, t: shown.t, n: shown.n, a: shown.a};
    },
    get numbers() {
      return numbers;
    },
    autopilot,
    player,
    timewarp,
    handoff,
    Warper,
  };
  find('.screen').style.setProperty('--ratio', props.ratio);
  player.fps = props.fps;
  show('idle');
}
