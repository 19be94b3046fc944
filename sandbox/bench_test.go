package sandbox

import (
	"path/filepath"
	"testing"

	"liege/internal/testenv"
)

// BenchmarkStart is one start and end of a program that exits at once.
func BenchmarkStart(b *testing.B) {
	testenv.Need(b, testenv.Root, testenv.CgroupV2)
	dir := b.TempDir()
	m, err := NewManager(ManagerConfig{RunDir: dir, Stage: self(b)})
	if err != nil {
		b.Fatal(err)
	}
	r := &rig{m: m, dir: dir}
	gen := 0
	for b.Loop() {
		gen++
		spec := r.spec("bench", gen, "exit", "0")
		own, err := donations(&spec, filepath.Join(dir, "log"))
		if err != nil {
			b.Fatal(err)
		}
		s, err := m.Start(b.Context(), spec)
		for _, f := range own {
			f.Close()
		}
		if err != nil {
			b.Fatal(err)
		}
		<-s.Done()
	}
	b.StopTimer()
	v, err := m.Vassal("bench")
	if err != nil {
		b.Fatal(err)
	}
	if err := v.Close(); err != nil {
		b.Error(err)
	}
	if err := m.Close(); err != nil {
		b.Error(err)
	}
}
