{% set orders = count_of(ref('raw_orders')) %}
{% set old = load_relation(this) %}
{% set other = adapter.get_relation(database=ref('customer_totals').database, schema=ref('customer_totals').schema, identifier=ref('customer_totals').identifier) %}
{% set ns = namespace(models=0, compiled=0) %}
{% if execute %}{% for node in graph.nodes.values() %}
  {% if node.resource_type == 'model' %}{% set ns.models = ns.models + 1 %}{% endif %}
  {# from dbt-core 1.12 on `graph` shows what was compiled: of others, that depends on threads #}
  {% if node.compiled_code and node.unique_id == 'model.features.customer_totals' %}{% set ns.compiled = ns.compiled + 1 %}{% endif %}
{% endfor %}{% endif %}
-- depends_on: {{ ref('customer_totals') }}
select
    '{{ invocation_id }}' as invocation,
    cast('{{ run_started_at.strftime("%Y-%m-%d %H:%M:%S.%f") }}' as timestamp) as started,
    {{ orders }} as orders,
    '{{ old.type if old else "none" }}' as was,
    '{{ other.type if other else "none" }}' as totals_is,
    {{ ns.models }} as models_in_graph,
    {{ ns.compiled }} as compiled_in_graph,
    '{{ flags.FULL_REFRESH }}' as full_refresh,
    '{{ flags.WHICH }}' as command,
    '{{ env_var("DBT_FEATURES_MOOD", "calm") }}' as mood,
    '{{ target.name }}' as target_name,
    '{{ model.unique_id }}' as me,
    {{ graph.sources.values() | list | length if execute else 0 }} as sources,
    '{{ invocation_args_dict.which }}' as args_which,
    '{{ local_md5("x") }}' as hashed
