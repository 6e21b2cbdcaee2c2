import {CHANNELS} from '../../web/channels.js';

// The stage before take-off: where the flight would start, and which control to hold first.
export class Ground {
  constructor(root) {
    this.root = root;
    this.picture = root.querySelector('.chosen');
    this.lead = root.querySelector('.lead');
    this.last = ''; // what an interrupted flight saw last, before this page was loaded
    this.crop = 0.5;
    this.own = ''; // names the visitor's own picture
    this.flown = null; // names the first frame of the newest flight
    this.steered = false; // whether anything was pressed yet
    const hear = (name, listener) =>
      document.addEventListener('wanact:' + name, ({detail}) => {
        if (detail.scene === 'live-') listener(detail);
      });
    hear('scene', ({crop}) => {
      this.crop = typeof crop === 'number' ? crop : 0.5;
      this.cut();
    });
    hear('kept', ({picture}) => {
      this.own = picture;
    });
  }

  // The address of the first frame that is chosen now; '' without one.
  get chosen() {
    return document.querySelector('#live-frame img')?.src || '';
  }

  // Its name, which is the same after a reload.
  get name() {
    return document.querySelector('#live-samples [aria-pressed=true]')?.dataset.id || this.own;
  }

  // Whether the prompt in its field says something else; line breaks are spaces to the server.
  saysElse(words) {
    const plain = text => text.replace(/\s+/g, ' ').trim();
    const field = document.querySelector('#live-prompt textarea');
    return field !== null && typeof words === 'string' && plain(field.value) !== plain(words);
  }

  // What was chosen before a reload is chosen again.
  get isSettled() {
    return Boolean(document.querySelector('#live-memory [data-restored]'));
  }

  // Another first frame has been chosen since the last flight began.
  get isNew() {
    return this.isSettled && this.flown !== null && this.chosen !== '' && this.name !== this.flown;
  }

  takeOff() {
    this.flown = this.name;
    this.last = '';
  }

  // An earlier flight is there to be gone on with: from which first frame, and what it saw last.
  comeBack(start, seen) {
    this.last = typeof seen === 'string' && seen.startsWith('data:image/') ? seen : '';
    this.flown = typeof start === 'string' ? start : null;
  }

  // Show what is chosen; whether it is another picture than before.
  look() {
    const wanted = this.isNew ? this.chosen : this.last || this.chosen;
    const key = [wanted, this.name, this.isNew, this.isSettled].join(' '); // the name may follow its picture
    if (key === this.shown) return false;
    this.shown = key;
    this.picture.hidden = !wanted;
    if (wanted) this.picture.src = wanted;
    this.cut();
    return true;
  }

  // What an interrupted flight saw has the stage's own shape; a first frame is cut as it will be flown.
  cut() {
    this.picture.style.objectPosition = `${100 * this.crop}% ${100 * this.crop}%`;
  }

  // Whether the stage shows where a flight would start, and not what the newest one has seen.
  covers(state, hasShown, startsAnew) {
    if (!hasShown) return true;
    if (state === 'line') return startsAnew;
    return this.isNew && ['idle', 'landed', 'failed'].includes(state);
  }

  // Which control to hold first, until one was held. The key is called as its cap is.
  invite(state, hasFlown) {
    const waits = state === 'line' || state === 'flying' || (state === 'idle' && !hasFlown);
    this.lead.hidden = this.steered || !waits;
    if (!this.lead.hidden)
      this.lead.querySelector('kbd').textContent = this.root.querySelector('.cap.forward kbd').textContent;
  }

  // A letter that steers was pressed while nothing on the page had the focus: the stage takes it.
  takeKeys(isWanted) {
    const letters = new Set(CHANNELS.map(channel => channel.code).filter(code => code.startsWith('Key')));
    document.addEventListener('keydown', event => {
      const {root} = this;
      if (event.target !== document.body || !letters.has(event.code) || !root.isConnected) return;
      if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.repeat) return;
      if (!root.offsetParent || !isWanted()) return;
      root.focus({preventScroll: true});
      root.dispatchEvent(new KeyboardEvent('keydown', {code: event.code, key: event.key}));
    });
  }
}
