package stage

import (
	"fmt"
	"slices"
)

// MainWithout is Main with one step left out, for negative controls: a
// posture test that still passes then would prove nothing.
func MainWithout(args []string, exe, name string) int {
	r, err := newRun(atoi(args[2]), exe)
	if err != nil {
		return report(atoi(args[2])+1, failure(StepPlan, err))
	}
	all := steps()
	some := slices.DeleteFunc(steps(), func(s step) bool { return s.name == name })
	if len(some) == len(all) {
		return report(r.status, failure(StepPlan, fmt.Errorf("no step is called %q", name)))
	}
	return report(r.status, r.start(some))
}

// ReadSealed reports whether fd would be accepted as a plan's file.
func ReadSealed(fd int) error {
	_, err := readSealed(fd, MaxPlan)
	return err
}
