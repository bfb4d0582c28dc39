//go:build linux

package statusserver_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/internal/kerneltest"
)

// browser drives one tab of a headless Chromium by the DevTools protocol over a
// pair of pipes: messages are JSON, each ended by a zero byte.
type browser struct {
	in      io.WriteCloser
	session string

	mu      sync.Mutex
	lastID  int
	waiting map[int]chan message
	faults  []string // uncaught exceptions and errors on the console
}

type message struct {
	ID      int             `json:"id,omitempty"`
	Session string          `json:"sessionId,omitempty"`
	Method  string          `json:"method,omitempty"`
	Params  json.RawMessage `json:"params,omitempty"`
	Result  json.RawMessage `json:"result,omitempty"`
	Error   *struct {
		Message string `json:"message"`
	} `json:"error,omitempty"`
}

// startBrowser starts Chromium, which ends with the spec.
func startBrowser() *browser {
	GinkgoHelper()
	kerneltest.Require(GinkgoT(), kerneltest.Chromium)
	theirIn, ourOut, err := os.Pipe()
	Expect(err).NotTo(HaveOccurred())
	ourIn, theirOut, err := os.Pipe()
	Expect(err).NotTo(HaveOccurred())
	home, err := os.MkdirTemp("", "nodekit-chromium-")
	Expect(err).NotTo(HaveOccurred())
	cmd := exec.Command("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
		"--hide-scrollbars", "--remote-debugging-pipe", "--user-data-dir="+home, "about:blank")
	cmd.ExtraFiles = []*os.File{theirIn, theirOut}
	cmd.Env = append(os.Environ(), "HOME="+home, "TMPDIR="+home)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	Expect(cmd.Start()).To(Succeed())
	_ = theirIn.Close()
	_ = theirOut.Close()
	b := &browser{in: ourOut, waiting: map[int]chan message{}}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b.read(ourIn)
	}()
	DeferCleanup(func() {
		// The group, because the tab runs in a process of its own.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		_ = ourOut.Close()
		_ = ourIn.Close()
		<-ended
		Eventually(func() error { return os.RemoveAll(home) }).WithTimeout(time.Minute).Should(Succeed())
	})

	var target struct {
		TargetID string `json:"targetId"`
	}
	b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct {
		SessionID string `json:"sessionId"`
	}
	b.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	b.session = attached.SessionID
	b.call("Runtime.enable", nil, nil)
	b.call("Log.enable", nil, nil)
	b.call("Page.enable", nil, nil)
	return b
}

func (b *browser) read(from io.Reader) {
	r := bufio.NewReader(from)
	for {
		data, err := r.ReadBytes(0)
		if err != nil {
			b.mu.Lock()
			defer b.mu.Unlock()
			for id, c := range b.waiting {
				close(c)
				delete(b.waiting, id)
			}
			return
		}
		var m message
		if json.Unmarshal(data[:len(data)-1], &m) != nil {
			continue
		}
		b.mu.Lock()
		if c, ok := b.waiting[m.ID]; ok && m.ID != 0 {
			delete(b.waiting, m.ID)
			c <- m
		}
		switch m.Method {
		case "Runtime.exceptionThrown", "Log.entryAdded", "Security.securityPolicyViolation":
			b.faults = append(b.faults, string(m.Params))
		}
		b.mu.Unlock()
	}
}

// call asks the browser for something and waits for its answer.
func (b *browser) call(method string, params any, result any) {
	GinkgoHelper()
	Expect(b.try(method, params, result)).To(Succeed(), method)
}

// try is call, for what may fail.
func (b *browser) try(method string, params any, result any) error {
	GinkgoHelper()
	answer := make(chan message, 1)
	b.mu.Lock()
	b.lastID++
	id := b.lastID
	b.waiting[id] = answer
	b.mu.Unlock()
	raw, err := json.Marshal(params)
	Expect(err).NotTo(HaveOccurred())
	if params == nil {
		raw = []byte("{}")
	}
	data, err := json.Marshal(message{ID: id, Session: b.session, Method: method, Params: raw})
	Expect(err).NotTo(HaveOccurred())
	_, err = b.in.Write(append(data, 0))
	Expect(err).NotTo(HaveOccurred())
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	select {
	case m, ok := <-answer:
		Expect(ok).To(BeTrue(), "the browser has ended")
		if m.Error != nil {
			return errors.New(m.Error.Message)
		}
		if result != nil {
			return json.Unmarshal(m.Result, result)
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// eval gives the value of an expression in the page, as text.
func (b *browser) eval(expression string) string {
	GinkgoHelper()
	var got struct {
		Result struct {
			Value any `json:"value"`
		} `json:"result"`
		Exception *struct {
			Text      string          `json:"text"`
			Exception json.RawMessage `json:"exception"`
		} `json:"exceptionDetails"`
	}
	// A page that is being loaded has no place to evaluate in; who polls comes again.
	if err := b.try("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true, "awaitPromise": true}, &got); err != nil {
		return "error: " + err.Error()
	}
	if got.Exception != nil {
		return fmt.Sprintf("exception: %s %s", got.Exception.Text, got.Exception.Exception)
	}
	if got.Result.Value == nil {
		return ""
	}
	return fmt.Sprint(got.Result.Value)
}

// text gives a poller for what an element says.
func (b *browser) text(selector string) func() string {
	return func() string {
		return b.eval(fmt.Sprintf(`(document.querySelector(%q) || {innerText: "(none)"}).innerText`, selector))
	}
}

// key presses a key as a keyboard does.
func (b *browser) key(key string) {
	GinkgoHelper()
	params := map[string]any{"type": "keyDown", "key": key, "code": key}
	switch key {
	case "Enter":
		params["text"], params["windowsVirtualKeyCode"] = "\r", 13
	case "Tab":
		params["windowsVirtualKeyCode"] = 9
	case "/":
		params["text"] = "/"
	}
	b.call("Input.dispatchKeyEvent", params, nil)
	params["type"] = "keyUp"
	delete(params, "text")
	b.call("Input.dispatchKeyEvent", params, nil)
}

// write types text where the focus is.
func (b *browser) write(text string) {
	GinkgoHelper()
	b.call("Input.insertText", map[string]any{"text": text}, nil)
}

func (b *browser) open(url string) {
	GinkgoHelper()
	b.call("Page.navigate", map[string]any{"url": url}, nil)
}

func (b *browser) screen(width, height int, scheme string) {
	GinkgoHelper()
	b.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}, nil)
	b.call("Emulation.setEmulatedMedia", map[string]any{"features": []any{map[string]any{"name": "prefers-color-scheme", "value": scheme}}}, nil)
}

// shot writes a picture of the page to the directory NODEKIT_SCREENSHOTS, for
// people; without it, to nowhere.
func (b *browser) shot(name string) {
	GinkgoHelper()
	dir := os.Getenv("NODEKIT_SCREENSHOTS")
	if dir == "" {
		return
	}
	var got struct {
		Data string `json:"data"`
	}
	b.call("Page.captureScreenshot", map[string]any{"format": "png", "captureBeyondViewport": true}, &got)
	data, err := base64.StdEncoding.DecodeString(got.Data)
	Expect(err).NotTo(HaveOccurred())
	Expect(os.WriteFile(filepath.Join(dir, name+".png"), data, 0o600)).To(Succeed())
}

// complaints gives what went wrong in the page.
func (b *browser) complaints() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.faults...)
}
