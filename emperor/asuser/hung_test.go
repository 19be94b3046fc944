package asuser

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"liege/internal/testenv"
)

// E03: what hangs on a user's own file system is bounded, and is that user's.
func TestHung(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.FUSE)
	testenv.Leaks(t)
	home, err := os.MkdirTemp("/srv", "liege-hung-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	if err := errors.Join(os.Chmod(home, 0o755), os.Mkdir(home+"/mute", 0o777), os.WriteFile(home+"/file", nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	const mallory, alice = 61002, 61001
	who := Who{UID: mallory, GID: mallory}
	mute := testenv.NewMute(t, filepath.Join(home, "mute"), mallory, true)
	// Its server takes every request: who waits then is not even ended by SIGKILL.
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
				mute.Asked()
			}
		}
	}()
	end := sync.OnceFunc(func() { close(stop); <-stopped; mute.Close() })
	defer end()
	for i := range maxHung {
		s, err := Start(t.Context(), who)
		if err != nil {
			t.Fatalf("the first %d hang, and: %v", i, err)
		}
		if _, err := s.Stat(home + "/mute/x"); !errors.Is(err, ErrGone) {
			t.Errorf("what does not answer: %v", err)
		}
		if err := s.Close(); !errors.Is(err, ErrGone) {
			t.Errorf("the child has ended: %v; the test shows nothing", err)
		}
	}
	if s, err := Start(t.Context(), who); !errors.Is(err, ErrGone) {
		t.Errorf("%d hang, and another is started: %v", maxHung, err)
		s.Close()
	}
	if got := Looks(who, []string{home + "/file"}); len(got) > 0 && got[0] != "" {
		t.Errorf("%d hang, and a thread looks: %q", maxHung, got)
	}
	other := Who{UID: alice, GID: alice}
	if got := Looks(other, []string{home + "/mute/x", home + "/file"}); got[0]+got[1] != "" {
		t.Errorf("what hangs looked like %q", got)
	}
	if got := Looks(other, []string{home + "/file"}); got[0] == "" {
		t.Error("one of another user's hangs, and nothing is looked at")
	}
	end()
	for deadline := time.Now().Add(20 * time.Second); hung.full(who.key()); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("they answer again, and are counted")
		}
	}
	s, err := Start(t.Context(), who)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}
