// Hands the samples of the microphone to the page as they come.
registerProcessor("tape", class extends AudioWorkletProcessor {
  process([channels]) {
    if (channels.length) this.port.postMessage(channels[0].slice());
    return true;
  }
});
