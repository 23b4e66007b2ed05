// In the browser's audio thread: samples as 16-bit numbers, in pieces, each with its loudness.
class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.size = Math.round(sampleRate / 20);
    this.piece = new Int16Array(this.size);
    this.filled = 0;
    this.sum = 0;
  }

  process([input]) {
    const channel = input[0];
    if (!channel) return true;
    for (const sample of channel) {
      const bounded = Math.max(-1, Math.min(1, sample));
      this.piece[this.filled++] = Math.round(bounded * 32767);
      this.sum += bounded * bounded;
      if (this.filled === this.size) {
        this.port.postMessage({ piece: this.piece, level: Math.sqrt(this.sum / this.size) }, [this.piece.buffer]);
        this.piece = new Int16Array(this.size);
        this.filled = 0;
        this.sum = 0;
      }
    }
    return true;
  }
}
registerProcessor("capture", Capture);
