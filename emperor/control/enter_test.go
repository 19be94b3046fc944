package control

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"liege/internal/testenv"
)

// TestEnter: the descriptors go with the request, the command's code comes
// back, a client that hangs up ends it, and what does not fit is refused.
func TestEnter(t *testing.T) {
	testenv.Need(t, testenv.Root)
	socket := serve(t, &backend{}, -1)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	code := -1
	enter := func(ctx context.Context, files []*os.File, req Request) error {
		req.Verb = Enter
		return CallWith(ctx, socket, req, files, func(rep Reply) error { code = rep.Code; return nil })
	}
	if err := enter(t.Context(), []*os.File{r, w, w}, Request{Names: []string{"shop"}}); err != nil || code != 7 {
		t.Errorf("code %d, %v", code, err)
	}
	w.Close()
	// The end of the pipe says that the server keeps no copy either.
	if b, err := io.ReadAll(r); string(b) != "shop root" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	for _, tt := range []struct {
		files []*os.File
		req   Request
	}{
		{nil, Request{Names: []string{"shop"}}},
		{[]*os.File{r}, Request{Names: []string{"shop"}}},
		{[]*os.File{r, r}, Request{Names: []string{"shop"}, Console: true}},
		{[]*os.File{r, r, r}, Request{Names: []string{"shop", "blog"}}},
		{[]*os.File{r, r, r}, Request{Names: []string{"s*"}}},
		{[]*os.File{r, r, r}, Request{All: true}},
	} {
		if e, ok := errors.AsType[*Error](enter(t.Context(), tt.files, tt.req)); !ok || e.Code != 64 {
			t.Errorf("%+v with %d descriptors: %v", tt.req, len(tt.files), e)
		}
	}
	ctx, hangUp := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, hangUp)
	if err := enter(ctx, []*os.File{r, r, r}, Request{Names: []string{"shop"}, Command: []string{"wait"}}); err == nil {
		t.Error("a client that hung up was answered")
	} // and serve's cleanup waits until the backend has noticed
}

// TestFilesOfOthers: descriptors that come with another request, or too many,
// are closed.
func TestFilesOfOthers(t *testing.T) {
	testenv.Need(t, testenv.Root)
	socket := serve(t, &backend{}, -1)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	files := []*os.File{w, w, w, w, w, w, w, w}
	if err := send(c.(*net.UnixConn), []byte(`{"v":1,"verb":"wait","names":["never"],"goal":"gone"}`+"\n"), files); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if err := r.SetReadDeadline(time.Now().Add(60 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) { // while the request is not answered
		t.Errorf("the server holds what nobody asked it to: %v", err)
	}
}
