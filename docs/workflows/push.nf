// A process that pushes a directory of results. CLOUDPUSH_URL and CLOUDPUSH_TOKEN come from Nextflow's secrets or the
// environment (`env.CLOUDPUSH_URL` in nextflow.config), or from `cloudpush login`.
//
// CloudPush's workers must see the work directory under the same path, and it must lie below a source root.

params.results    = "results/*"
params.bucket     = "s3://lab-archive"
params.credential = "lab-key"

process CLOUDPUSH {
    tag "${name}"
    errorStrategy { task.exitStatus == 6 ? 'retry' : 'terminate' }  // 6: CloudPush is away for a moment
    maxRetries 3
    stageInMode 'copy'  // a staged link leads out of the work directory

    input:
    tuple val(name), path(results)

    output:
    tuple val(name), path("verdict.json")

    script:
    // It becomes a word of the script as it is: what a shell would take for more than a word is refused.
    if( !(name ==~ /[A-Za-z0-9_][A-Za-z0-9_.-]*/) ) {
        error "a result's name has letters, digits, dots, dashes and underscores only, unlike ${name}"
    }
    """
    cloudpush push "\$PWD/${results}" "${params.bucket}/${name}" --credential "${params.credential}" \\
        --label nextflow="${name}" --wait --json > verdict.json
    """
}

workflow {
    Channel.fromPath(params.results, type: 'dir') | map { [it.name, it] } | CLOUDPUSH
}
