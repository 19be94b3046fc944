// Package deploy holds the tests of what is installed: the units and the
// packages. It has no code of its own.
//
// The units are liege.service and liege-vassals.service; package/nfpm.yaml
// lists what the packages hold, package/build.sh makes them, and the scripts
// beside it run when one is installed, upgraded and removed.
package deploy
