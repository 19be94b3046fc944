package asuser

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"liege/internal/testenv"
)

// What the host denies a user has no time for that user, and this process
// stays what it is.
func TestTimes(t *testing.T) {
	testenv.Need(t, testenv.Root)
	dir, err := os.MkdirTemp("/srv", "liege-times-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	hidden, group, seen := filepath.Join(dir, "hidden"), filepath.Join(dir, "group"), filepath.Join(dir, "seen")
	err = errors.Join(os.Chmod(dir, 0o755), os.Mkdir(hidden, 0o700), os.WriteFile(hidden+"/f", nil, 0o644),
		os.Mkdir(group, 0o750), os.WriteFile(group+"/f", nil, 0o644), os.WriteFile(seen, nil, 0o600),
		os.Symlink(hidden+"/f", dir+"/link"))
	if err != nil {
		t.Fatal(err)
	}
	paths := []string{seen, hidden + "/f", group + "/f", dir + "/link", dir + "/none"}
	for _, tc := range []struct {
		who  Who
		want []bool
	}{
		{Who{UID: 65534, GID: 65534}, []bool{true, false, false, false, false}},
		{Who{UID: 65534, GID: 65534, Groups: []int{0}}, []bool{true, false, true, false, false}},
		{Who{}, []bool{true, true, true, true, false}}, // the control
	} {
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				for i, got := range Times(tc.who, paths) {
					if got.IsZero() == tc.want[i] {
						t.Errorf("%+v: %s: %v", tc.who, paths[i], got)
					}
				}
			})
		}
		wg.Wait()
		if _, err := os.Stat(hidden + "/f"); err != nil {
			t.Fatal("this process has lost its rights: ", err)
		}
	}
}
