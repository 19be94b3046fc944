package main

import (
	"context"
	"testing"

	"liege/emperor"
)

// told is a Monitor that sees files.
type told []emperor.File

func (m told) Watch(ctx context.Context, out chan<- emperor.Snapshot) error {
	select {
	case out <- emperor.Snapshot{Files: m}:
	case <-ctx.Done():
	}
	<-ctx.Done()
	return nil
}

func (told) Rescan(context.Context) error { return nil }

// The Emperor of one file sees that file, and the section that was named.
func TestOnly(t *testing.T) {
	files := told{{Path: "/srv/a.ini"}, {Path: "/srv/b.ini"}}
	ctx, stop := context.WithCancel(t.Context())
	out, done := make(chan emperor.Snapshot), make(chan error, 1)
	go func() { done <- (&only{Monitor: files, path: "/srv/b.ini", section: "prod"}).Watch(ctx, out) }()
	got := (<-out).Files
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(got) != 1 || got[0].Path != "/srv/b.ini" || got[0].Section != "prod" || files[1].Section != "" {
		t.Errorf("%+v of %+v", got, files)
	}
}
