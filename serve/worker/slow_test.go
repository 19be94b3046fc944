package worker

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"liege/serve/exchange"
	"liege/vassal"
)

// stalled is a client that sends and reads nothing more.
type stalled struct {
	exchange.Response
	closed chan struct{}
	once   sync.Once
}

func newStalled(w exchange.Response) *stalled {
	return &stalled{Response: w, closed: make(chan struct{})}
}

func (s *stalled) Close() error { s.once.Do(func() { close(s.closed) }); return nil }
func (s *stalled) Read([]byte) (int, error) {
	<-s.closed
	return 0, errors.New("interrupted")
}
func (s *stalled) Write([]byte) (int, error) { return s.Read(nil) }

const slow = `
import os, signal
def application(environ, start_response):
    if environ['PATH_INFO'] == '/die':
        os.kill(os.getpid(), signal.SIGKILL)
    if environ['PATH_INFO'] == '/read':
        environ['wsgi.input'].read()
    start_response('200 OK', [])
    if environ['PATH_INFO'] == '/write':
        return (b'x' * 65536 for i in range(100))
    return [b'hello']
`

// TestSlowClients: however slow the clients of some requests are, harakiri
// ends those requests, workers that die are replaced, and others are answered.
func TestSlowClients(t *testing.T) {
	for name, ask := range map[string]func(*running) error{
		"upload": func(r *running) error {
			req := request("POST", "/read", "")
			req.Length, req.Body = 1<<20, newStalled(nil)
			return r.Serve(context.Background(), req, &recorder{})
		},
		"download": func(r *running) error {
			return r.Serve(context.Background(), request("GET", "/write", ""), newStalled(&recorder{}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, slow, func(a *vassal.App) { a.Workers.Harakiri = 300 * time.Millisecond })
			// More than there are places for workers that ended.
			for range 6 {
				done := make(chan error, 1)
				go func() { done <- ask(r) }()
				select {
				case err := <-done:
					if err == nil || name == "upload" && exchange.StatusOf(err) != 504 {
						t.Errorf("%v, want harakiri", err)
					}
				case <-time.After(10 * time.Second):
					t.Fatal("a slow client keeps its worker for ever")
				}
			}
			if got := r.get("/hello"); got != "hello" {
				t.Errorf("got %q", got)
			}
		})
	}
}

// TestRespawnBesideSlowClient: a worker that dies is replaced although a
// client of another one is slow, and nothing that the pool tells of itself
// waits for that client.
func TestRespawnBesideSlowClient(t *testing.T) {
	r := start(t, slow, func(a *vassal.App) { a.Workers.Processes = 2 })
	body := newStalled(nil)
	req := request("POST", "/read", "")
	req.Length, req.Body = 1<<20, body
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.Serve(context.Background(), req, &recorder{}); err == nil {
			t.Error("half a body was answered")
		}
	})
	for range 3 {
		if _, err := r.do(request("GET", "/die", "")); exchange.StatusOf(err) != 502 {
			t.Errorf("%v, want 502", err)
		}
		if got := r.get("/hello"); got != "hello" {
			t.Errorf("got %q", got)
		}
	}
	if n := r.Stats().Respawns; n < 2 {
		t.Errorf("%d respawns", n)
	}
	body.Close()
	wg.Wait()
	if log := r.log(); strings.Contains(log, "broke the protocol") {
		t.Error(log)
	}
}

var _ io.ReadCloser = (*stalled)(nil)

const large = `
def application(environ, start_response):
    path = environ['PATH_INFO']
    start_response('200 OK', [])
    if path == '/whole':
        return [b'x' * 200000]
    if path == '/pieces':
        return (b'x' * 20000 for i in range(10))
    if path == '/file':
        return environ['wsgi.file_wrapper'](open(environ['QUERY_STRING'], 'rb'))
    return [b'hello']
`

// TestSlowReader: a client that does not read keeps no worker and no place in
// the queue: one worker answers others, and in the end the client has it all.
func TestSlowReader(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, make([]byte, 200000), 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, large, nil)
	for name, path := range map[string]string{"whole": "/whole", "pieces": "/pieces", "file": "/file?" + file} {
		t.Run(name, func(t *testing.T) {
			reads := make(chan struct{})
			var slow [2 * backlog]recorder
			var wg sync.WaitGroup
			for i := range slow {
				slow[i].onWrite = func([]byte) error { <-reads; return nil }
				wg.Go(func() {
					if err := r.Serve(context.Background(), request("GET", path, ""), &slow[i]); err != nil {
						t.Error(err)
					}
				})
			}
			for range 3 {
				if got := r.get("/hello"); got != "hello" {
					t.Errorf("got %q", got)
				}
			}
			close(reads)
			wg.Wait()
			for i := range slow {
				if slow[i].size != 200000 {
					t.Errorf("%d bytes came", slow[i].size)
				}
			}
			if n := r.Pool.spooled.Load(); n != 0 {
				t.Errorf("%d bytes are kept for nobody", n)
			}
		})
	}
}

// TestSpoolIsBounded: of an endless answer the core keeps what it may for a
// client that does not read, and nothing when that is gone.
func TestSpoolIsBounded(t *testing.T) {
	r := start(t, slow, nil)
	ctx, leave := context.WithCancel(context.Background())
	defer leave()
	w := &recorder{onWrite: func([]byte) error { <-ctx.Done(); return errors.New("gone") }}
	done := make(chan error, 1)
	go func() { done <- r.Serve(ctx, request("GET", "/write", ""), w) }()
	for deadline := time.Now().Add(time.Minute); r.Pool.spooled.Load() < spoolEach; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("only %d bytes are kept", r.Pool.spooled.Load())
		}
	}
	if n := r.Pool.spooled.Load(); n > spoolEach {
		t.Errorf("%d bytes are kept", n)
	}
	leave()
	if err := <-done; err == nil {
		t.Error("the whole of it was sent")
	}
	if got := r.get("/hello"); got != "hello" {
		t.Errorf("got %q", got)
	}
	if n := r.Pool.spooled.Load(); n != 0 {
		t.Errorf("%d bytes are kept for nobody", n)
	}
}

// told says that somebody reads.
type told struct {
	*stalled
	begun chan<- struct{}
}

func (s *told) Read(p []byte) (int, error) {
	s.begun <- struct{}{}
	return s.stalled.Read(p)
}

// TestSlowSmallBodies: clients that send a small body slowly take no place of the
// requests that the workers could be at.
func TestSlowSmallBodies(t *testing.T) {
	r := start(t, slow, nil)
	var all sync.WaitGroup
	var clients []*stalled
	begun := make(chan struct{}, len(r.calls)+5)
	for range cap(begun) {
		req := request("POST", "/read", "")
		s := newStalled(nil)
		req.Length, req.Body = 10, &told{s, begun}
		clients = append(clients, s)
		all.Go(func() { _ = r.Serve(t.Context(), req, &recorder{}) })
	}
	for range len(r.calls) { // as many as wait at once with a place for each
		<-begun
	}
	if got := r.get("/"); got != "hello" {
		t.Errorf("got %q", got)
	}
	for _, s := range clients {
		s.Close()
	}
	all.Wait()
}
