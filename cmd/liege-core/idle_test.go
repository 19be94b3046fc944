package main

import (
	"testing"
	"time"

	"liege/vassal"
)

func TestIdler(t *testing.T) {
	start := time.Now()
	for _, tt := range []struct {
		name  string
		after time.Duration
		at    []int // seconds
		count []vassal.Counts
		want  []bool
	}{
		{"quiet", 3 * time.Second, []int{1, 2, 3, 4, 5, 6}, make([]vassal.Counts, 6), []bool{false, false, true, false, false, true}},
		{"never", 0, []int{1, 1000}, make([]vassal.Counts, 2), []bool{false, false}},
		{"a request", 3 * time.Second, []int{2, 4, 5}, []vassal.Counts{{Requests: 1}, {Requests: 1}, {Requests: 1}}, []bool{false, false, true}},
		{"one that takes long", 3 * time.Second, []int{2, 40, 43}, []vassal.Counts{{Active: 1}, {Active: 1}, {Requests: 0}}, []bool{false, false, true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i := idler{after: tt.after, since: start}
			for n, sec := range tt.at {
				if got := i.due(tt.count[n], start.Add(time.Duration(sec)*time.Second)); got != tt.want[n] {
					t.Errorf("after %d s: %t, want %t", sec, got, tt.want[n])
				}
			}
		})
	}
}

// TestPace: counters that change are looked at each second, others seldom, unless an
// idle vassal is to sleep.
func TestPace(t *testing.T) {
	start := time.Now()
	for _, may := range []bool{true, false} {
		p := pace{may: may, since: start}
		for _, step := range []struct {
			sec     int
			changed bool
			want    time.Duration
		}{{1, true, 0}, {9, false, 0}, {11, false, restEvery}, {21, false, 0}, {31, true, countEvery}, {32, true, 0}, {41, false, 0}, {42, false, restEvery}} {
			want := step.want
			if !may {
				want = 0
			}
			if got := p.next(step.changed, start.Add(time.Duration(step.sec)*time.Second)); got != want {
				t.Errorf("may %t, after %d s: %v, want %v", may, step.sec, got, want)
			}
		}
	}
}
