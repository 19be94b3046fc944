package e2e

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"liege/internal/testenv"
)

// TestRecipeAutoreload: the application is loaded anew when a file of its code
// has changed, and goes on serving as it was while one has a mistake. No
// request of a client that never stops fails.
func TestRecipeAutoreload(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Python3)
	cook(t, "autoreload", "site.ini", nil, "", func(r *recipe) {
		stop := r.loop()
		defer stop()
		write := func(name, text string) {
			if err := os.WriteFile(filepath.Join(r.dir, "site", name), []byte(text), 0o644); err != nil {
				r.t.Fatal(err)
			}
		}
		r.becomes("/", "one")
		r.becomes("/late", "late one")
		write("helper.py", "WORD = 'two'\n")
		r.becomes("/", "two")
		// Of what a request has imported too.
		r.becomes("/late", "late one")
		write("late.py", "WORD = 'late two'\n")
		r.becomes("/late", "late two")
		// A mistake in a module that the changed one brings in: what served
		// serves on, and the mended file is found.
		write("extra.py", "WORD = = 'three'\n")
		write("helper.py", "from extra import WORD\n")
		for range 40 {
			if _, got := r.ask("GET", "/"); got != "two" {
				r.t.Fatalf("with a mistake: got %q", got)
			}
			time.Sleep(100 * time.Millisecond) // longer than it takes to look and to load
		}
		write("extra.py", "WORD = 'three'\n")
		r.becomes("/", "three")
	})
}

// becomes waits until path is answered with want.
func (r *recipe) becomes(path, want string) {
	r.t.Helper()
	var got string
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		var res *http.Response
		if res, got = r.ask("GET", path); res.StatusCode == 200 && got == want {
			return
		}
	}
	r.t.Fatalf("%s: got %q, want %q", path, got, want)
}

// loop asks for / over and over until stop is called; every answer is 200.
func (r *recipe) loop() (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tr := &http.Transport{}
		defer tr.CloseIdleConnections()
		client := http.Client{Transport: tr}
		for n := 0; ; n++ {
			select {
			case <-done:
				return
			default:
			}
			res, err := client.Get("http://" + r.addr + "/")
			if err != nil {
				r.t.Errorf("request %d: %v", n, err)
				return
			}
			_, err = io.Copy(io.Discard, res.Body)
			res.Body.Close()
			if err != nil || res.StatusCode != 200 {
				r.t.Errorf("request %d: %d, %v", n, res.StatusCode, err)
			}
		}
	})
	return sync.OnceFunc(func() { close(done); wg.Wait() })
}
