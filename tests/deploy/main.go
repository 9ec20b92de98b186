// Reads what deploy/ has as the tools that run it do, and prints what kustomize makes of a folder.
//
//	deploycheck kustomize FOLDER   every document decodes strictly into its operator's own Go type
//	deploycheck compose FILE       Compose's loader takes the file
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/compose-spec/compose-go/v2/cli"
	keda "github.com/kedacore/keda/v2/apis/keda/v1alpha1"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	spin "github.com/spinkube/spin-operator/api/v1alpha1"
	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	"sigs.k8s.io/json"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// kinds has the type of each kind that the manifests may have.
var kinds = map[string]func() any{
	"core.spinkube.dev/v1alpha1/SpinApp":         func() any { return new(spin.SpinApp) },
	"core.spinkube.dev/v1alpha1/SpinAppExecutor": func() any { return new(spin.SpinAppExecutor) },
	"keda.sh/v1alpha1/ScaledObject":              func() any { return new(keda.ScaledObject) },
	"keda.sh/v1alpha1/TriggerAuthentication":     func() any { return new(keda.TriggerAuthentication) },
	"apps/v1/Deployment":                         func() any { return new(apps.Deployment) },
	"batch/v1/Job":                               func() any { return new(batch.Job) },
	"monitoring.coreos.com/v1/PodMonitor":        func() any { return new(monitoring.PodMonitor) },
	"monitoring.coreos.com/v1/PrometheusRule":    func() any { return new(monitoring.PrometheusRule) },
	"networking.k8s.io/v1/NetworkPolicy":         func() any { return new(networking.NetworkPolicy) },
	"policy/v1/PodDisruptionBudget":              func() any { return new(policy.PodDisruptionBudget) },
	"v1/ConfigMap":                               func() any { return new(core.ConfigMap) },
	"v1/Secret":                                  func() any { return new(core.Secret) },
	"v1/Service":                                 func() any { return new(core.Service) },
	"v1/ServiceAccount":                          func() any { return new(core.ServiceAccount) },
}

func main() {
	if len(os.Args) != 3 {
		fail(errors.New("usage: deploycheck kustomize FOLDER, or deploycheck compose FILE"))
	}
	switch os.Args[1] {
	case "kustomize":
		fail(kustomize(os.Args[2]))
	case "compose":
		fail(compose(os.Args[2]))
	default:
		fail(fmt.Errorf("%s is neither kustomize nor compose", os.Args[1]))
	}
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

func kustomize(folder string) error {
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), folder)
	if err != nil {
		return err
	}
	for _, resource := range resources.Resources() {
		text, err := resource.AsYAML()
		if err != nil {
			return err
		}
		gvk := resource.GetGvk()
		name := gvk.ApiVersion() + "/" + gvk.Kind
		make, known := kinds[name]
		if !known {
			return fmt.Errorf("%s %s: this kind is not known here", name, resource.GetName())
		}
		if name == "core.spinkube.dev/v1alpha1/SpinApp" {
			text, err = withoutLimits(text)
			if err != nil {
				return err
			}
		}
		if err := strictly(text, make()); err != nil {
			return fmt.Errorf("%s %s: %w", name, resource.GetName(), err)
		}
	}
	text, err := resources.AsYaml()
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(text)
	return err
}

// strictly decodes as the API server does: by fields' very names, and no unknown ones.
func strictly(text []byte, into any) error {
	text, err := yaml.YAMLToJSON(text)
	if err != nil {
		return err
	}
	unknown, err := json.UnmarshalStrict(text, into)
	if err != nil {
		return err
	}
	return errors.Join(unknown...)
}

// withoutLimits leaves spec.invocationLimits out: the operator has had it since a later version than its packages here.
func withoutLimits(text []byte) ([]byte, error) {
	var document map[string]any
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, err
	}
	if spec, is := document["spec"].(map[string]any); is {
		delete(spec, "invocationLimits")
	}
	return yaml.Marshal(document)
}

func compose(file string) error {
	options, err := cli.NewProjectOptions([]string{file}, cli.WithWorkingDirectory(filepath.Dir(file)), cli.WithName("exagg"))
	if err != nil {
		return err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return err
	}
	text, err := project.MarshalYAML()
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(text)
	return err
}
