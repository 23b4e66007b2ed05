// The microphone, and detection of speech by loudness.

export const PIECE_MS = 50;
const BEFORE_MS = 500; // of audio before speech was detected
const LEAST_LEVEL = 0.01;
const MOST_FLOOR = 0.05;
const MISSING_MS = 4000; // without any piece
const MUTED_MS = 1000; // by the system: less happens when a headset is changed

export class Microphone {
  // `take(piece, level)`: receives 16-bit samples, and their loudness from 0 to 1. `gone()`: called
  // once when the microphone was unplugged, taken by another program (a call) or suspended.
  constructor(take, gone) {
    this.take = take;
    this.gone = gone;
  }

  async open() {
    // Made while its button is pressed, which is when Safari lets it run.
    this.context = new AudioContext();
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({
        audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true },
      });
      await this.context.audioWorklet.addModule(new URL("capture.js", import.meta.url));
      this.watch(); // where it is interrupted, resume() may never come back
      await this.context.resume();
      this.node = new AudioWorkletNode(this.context, "capture", { numberOfOutputs: 0 });
      const [track] = this.stream.getAudioTracks();
      track.onended = () => this.lose();
      track.onmute = () => { this.muted = setTimeout(() => this.lose(), MUTED_MS); };
      track.onunmute = () => clearTimeout(this.muted);
      this.context.onstatechange = () => { if (this.context.state === "interrupted") this.lose(); };
      this.node.port.onmessage = ({ data }) => {
        if (this.closed) return;
        if (track.readyState === "ended") { this.lose(); return; } // what comes now is silence
        this.watch();
        this.take(data.piece, data.level);
      };
      this.context.createMediaStreamSource(this.stream).connect(this.node);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  get rate() {
    return this.context.sampleRate;
  }

  // An audio context that is suspended (a call, a sleeping device) sends no pieces at all.
  watch() {
    clearTimeout(this.timer);
    if (!this.closed) this.timer = setTimeout(() => this.lose(), MISSING_MS);
  }

  lose() {
    if (this.closed) return;
    this.close();
    this.gone();
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
    clearTimeout(this.muted);
    this.stream?.getTracks().forEach((track) => track.stop());
    this.context?.close().catch(() => {});
  }
}

// Detects what may be speech by loudness alone; the server decides whether it is.
export class SpeechDetector {
  constructor(silenceMs) {
    this.silenceMs = silenceMs;
    this.floor = 0.003;
    this.reset();
  }

  reset() {
    this.before = [];
    this.loudMs = 0;
    this.quietMs = 0;
    this.speaking = false;
  }

  // Treat sounds of this level as background: only louder ones begin an utterance.
  ignore(level) {
    this.reset();
    this.floor = Math.max(this.floor, Math.min(MOST_FLOOR, level));
  }

  // Returns "begins" (`before` has the pieces before it), "continues", "ends" or "quiet".
  take(piece, level, above = 3) {
    const loud = level > Math.max(LEAST_LEVEL, this.floor * above);
    this.floor = level < this.floor ? this.floor * 0.9 + level * 0.1 : Math.min(MOST_FLOOR, this.floor * 1.004 + 1e-6);
    this.quietMs = loud ? 0 : this.quietMs + PIECE_MS;
    if (this.speaking) {
      if (this.quietMs < this.silenceMs) return "continues";
      this.reset();
      return "ends";
    }
    this.before.push(piece);
    if (this.before.length > BEFORE_MS / PIECE_MS) this.before.shift();
    this.loudMs = loud ? this.loudMs + PIECE_MS : Math.max(0, this.loudMs - PIECE_MS);
    if (this.loudMs < 100) return "quiet";
    this.speaking = true;
    return "begins";
  }
}
