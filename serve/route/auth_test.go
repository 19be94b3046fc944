package route

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// slowHash takes a second, and fits one password.
type slowHash string

func (s slowHash) MatchesPassword(password string) bool {
	time.Sleep(time.Second)
	return password == string(s)
}

// slowPasswords is a file in which joe's password is "right".
func slowPasswords(t *testing.T) *passwords {
	t.Helper()
	file := filepath.Join(t.TempDir(), "passwords")
	if err := os.WriteFile(file, []byte("joe:{SHA}AAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := newPasswords(file, slog.New(slog.DiscardHandler))
	if _, _, _, err := p.look("joe", ""); err != nil {
		t.Fatal(err)
	}
	p.hashes["joe"] = hashed{"slow", slowHash("right")}
	return p
}

// TestGuesses: one client's guesses delay another's login by one hash, and
// whoever is known by none.
func TestGuesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := slowPasswords(t)
		var guesses sync.WaitGroup
		ctx, stop := context.WithCancel(t.Context())
		for i := range 100 {
			guesses.Go(func() {
				if ok, _ := p.check(ctx, fmt.Sprintf("2001:db8::%d", i), "joe", "wrong"); ok {
					t.Error("a wrong password fits")
				}
			})
		}
		synctest.Wait()
		for _, most := range []time.Duration{2 * time.Second, 0} {
			begin := time.Now()
			ok, err := p.check(t.Context(), "192.0.2.1", "joe", "right")
			if took := time.Since(begin); !ok || err != nil || took > most {
				t.Errorf("%t, %v, after %v", ok, err, took)
			}
		}
		stop() // the server ends: nobody waits any more
		begin := time.Now()
		guesses.Wait()
		if took := time.Since(begin); took > time.Second {
			t.Errorf("guesses were waited for %v", took)
		}
		if n := len(p.turns.of); n != 0 {
			t.Errorf("%d clients are kept", n)
		}
	})
}

// TestLongPassword: what a slow hash takes grows with the password.
func TestLongPassword(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := slowPasswords(t)
		begin := time.Now()
		ok, err := p.check(t.Context(), "192.0.2.1", "joe", strings.Repeat("x", maxPassword+1))
		if took := time.Since(begin); ok || err != nil || took != 0 {
			t.Errorf("%t, %v, after %v", ok, err, took)
		}
	})
}

// TestGuessesEnd: a login that waits when the server cuts it is no failure of
// the password.
func TestGuessesEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := slowPasswords(t)
		go p.check(t.Context(), "192.0.2.1", "joe", "wrong")
		synctest.Wait()
		why := errors.New("cut")
		ctx, cut := context.WithCancelCause(t.Context())
		cut(why)
		if ok, err := p.check(ctx, "192.0.2.2", "joe", "right"); ok || !errors.Is(err, why) {
			t.Errorf("%t, %v", ok, err)
		}
		time.Sleep(2 * time.Second)
	})
}

func TestNetwork(t *testing.T) {
	for in, want := range map[string]string{"192.0.2.1": "192.0.2.1", "2001:db8:1:2:3::4": "2001:db8:1:2::/64", "": "", "fe80::1%eth0": "fe80::/64", "::ffff:192.0.2.1": "::ffff:192.0.2.1"} {
		if got := network(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}
