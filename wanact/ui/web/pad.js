import {CHANNELS, channelIcon} from './channels.js';
import {connect} from './events.js';
import {holdKeys} from './keys.js';

export function mount({element, props, trigger}) {
  const {announce, hear} = connect(element);
  const root = element.querySelector('.pad');
  const sliders = [...root.querySelectorAll('input[type=range]')];
  const peaks = {move: props.peaks.move, look: props.peaks.look};

  for (const group of ['move', 'look']) {
    const cluster = root.querySelector('.cluster.' + group);
    CHANNELS.forEach((channel, i) => {
      if (channel.group !== group) return;
      const button = document.createElement('button');
      button.type = 'button';
      button.className = 'key ' + channel.id;
      button.dataset.channel = i;
      button.setAttribute('aria-pressed', 'false');
      button.setAttribute('aria-label', channel.label);
      button.setAttribute('aria-keyshortcuts', channel.code.replace('Key', ''));
      button.title = channel.label;
      const cap = document.createElement('kbd');
      cap.textContent = channel.key;
      cap.setAttribute('aria-hidden', 'true');
      button.append(channelIcon(i), cap);
      cluster.append(button);
    });
  }

  holdKeys(root, (held, pressed) => {
    props.value = held;
    trigger('input');
    announce('held', {held, pressed});
  });

  function showPeaks() {
    for (const slider of sliders) {
      const group = slider.dataset.group;
      const value = peaks[group];
      if (value > +slider.max) slider.max = value;
      slider.value = value;
      slider.style.setProperty('--filled', (100 * (value - slider.min)) / (slider.max - slider.min) + '%');
      const text = group === 'move' ? Math.round((100 * value) / props.peaks.move) + '%' : +value.toFixed(2) + '°';
      slider.closest('label').querySelector('output').textContent = text;
      slider.setAttribute('aria-valuetext', text + (group === 'move' ? '' : ' per step'));
    }
  }
  for (const slider of sliders)
    slider.addEventListener('input', () => {
      peaks[slider.dataset.group] = +slider.value;
      showPeaks();
      announce('peaks', {...peaks});
    });
  hear('plan', plan => {
    Object.assign(peaks, plan);
    showPeaks();
  });
  hear('take-keys', () => root.focus({preventScroll: true}));
  showPeaks();
}
