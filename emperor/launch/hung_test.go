package launch

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"liege/emperor"
	"liege/internal/testenv"
)

// A start that hangs on a path says where; when it goes on after it was given up it
// ends, and leaves nothing.
func TestLaunchHangs(t *testing.T) {
	testenv.Need(t, testenv.FUSE)
	r := newRig(t)
	r.site()
	const site = "[vassal]\nuid = nobody\nchdir = DIR/sock\ncheck-static = DIR/www\nhttp-socket = DIR/sock/h.sock\n"
	for name, line := range map[string]string{
		"bind": "bind = DIR/mute/bind/x:/mnt/x\n",
		"cert": "https-socket = 127.0.0.1:0,DIR/mute/cert/x/a.crt,DIR/mute/cert/x/a.key\n",
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(r.dir, "mute", name)
			r.write(filepath.Join(dir, "x", "a.crt"), "no certificate\n")
			r.write(filepath.Join(dir, "x", "a.key"), "no key\n")
			l := r.launcher(r.file(name, "", 0).Name)
			p, ps := l.Prepare(t.Context(), r.file(name, site+line, 0))
			if ps.Failed() {
				t.Fatal(ps)
			}
			mute := testenv.NewMute(t, dir, 0, true)
			ctx, cancel := context.WithCancelCause(t.Context())
			ended := make(chan error, 1)
			go func() {
				in, err := l.Launch(ctx, p, 1)
				if err == nil {
					err = errors.Join(errors.New("it was launched"), in.Kill())
				}
				ended <- err
			}()
			at := func() emperor.Step { return l.(emperor.Stepper).Step() }
			for deadline := time.Now().Add(patience); !strings.HasPrefix(at().On, dir) || !mute.Asked(); time.Sleep(time.Millisecond) {
				select {
				case err := <-ended:
					t.Fatalf("it does not hang: %v", err)
				default:
				}
				if time.Now().After(deadline) {
					t.Fatalf("it is at %v", at())
				}
			}
			if left := time.Until(at().Until); left <= 0 || left > emperor.StepTime {
				t.Errorf("it may take %v", left)
			}
			cancel(errors.New("given up"))
			mute.Close()
			if err := <-ended; err == nil || !strings.Contains(err.Error(), "given up") && !strings.Contains(err.Error(), dir) {
				t.Errorf("given up, and: %v", err)
			}
			if at() != (emperor.Step{}) {
				t.Errorf("over, and at %v", at())
			}
			if _, err := os.Stat(filepath.Join(r.dir, "sock", "h.sock")); err == nil {
				t.Error("its listener is left")
			}
			if rs, err := r.host.Records.Read(p.(*prepared).Config.Name); err != nil || len(rs) > 0 {
				t.Errorf("records are left: %v, %v", rs, err)
			}
		})
	}
}
