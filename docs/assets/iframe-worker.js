// A page that is opened from a disk may not start a worker, so the search of the site runs in a hidden frame there.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      const scripts = [new URL(url, document.baseURI).href];
      this.frame.addEventListener("load", () => this.start(scripts));
      document.body.append(this.frame);
    }

    start(scripts) {
      const inside = this.frame.contentWindow;
      inside.postMessage = (data) => {
        for (const event of [new MessageEvent("message", { data })]) {
          if (this.onmessage) this.onmessage(event);
          this.dispatchEvent(event);
        }
      };
      inside.importScripts = (...urls) => Promise.all(urls.map((each) => this.load(new URL(each, scripts[0]).href)));
      this.load(scripts[0]).then(() => {
        this.ready = true;
        this.waiting.splice(0).forEach((data) => this.postMessage(data));
      });
    }

    load(src) {
      return new Promise((resolve, reject) => {
        const script = this.frame.contentDocument.createElement("script");
        Object.assign(script, { src, onload: resolve, onerror: reject });
        this.frame.contentDocument.body.append(script);
      });
    }

    postMessage(data) {
      if (this.ready) this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data }));
      else this.waiting.push(data);
    }

    terminate() {
      this.frame.remove();
    }
  };
}
